"""Slicing, padding and masking of batches by the rules of `Batch` alone, so that batches of any objective can be used.

In all functions, the `batch` that is given stays unchanged and a new one is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from lavra.models.protocols import IGNORED, Batch

ENCODER_INPUTS = "encoder_inputs"
"""Names of the additional tensors of a batch that an encoder receives: token ids, document ids and positions."""
ENCODER_DOCUMENT_IDS = "encoder_document_ids"
ENCODER_POSITIONS = "encoder_positions"
_ENCODER_SIDE = (ENCODER_INPUTS, ENCODER_DOCUMENT_IDS, ENCODER_POSITIONS)


def counted(batch: Batch) -> float:
    """Return the number of targets that are not ignored."""
    return float((batch.targets != IGNORED).sum())


def with_targets(batch: Batch, kept: torch.Tensor) -> Batch:
    """Return the batch with only those targets for which the (batch, length) mask `kept` is True."""
    narrowed = replace(batch, targets=batch.targets.masked_fill(~kept, IGNORED))
    narrowed.weight = counted(narrowed)
    return narrowed


def only(batch: Batch, row: int, position: int) -> Batch:
    """Return the batch with only the target at one position of one row."""
    kept = torch.zeros_like(batch.targets, dtype=torch.bool)
    kept[row, position] = True
    return with_targets(batch, kept)


def cut(batch: Batch, columns: slice) -> Batch:
    """Return some columns of the batch; additional tensors of the same length are cut too, but not encoder inputs."""
    length = batch.inputs.shape[1]
    part = replace(
        batch,
        inputs=batch.inputs[:, columns],
        targets=batch.targets[:, columns],
        document_ids=None if batch.document_ids is None else batch.document_ids[:, columns],
        positions=None if batch.positions is None else batch.positions[:, columns],
        model_inputs={
            name: tensor[:, columns] if _beside(name, tensor, length) else tensor
            for name, tensor in batch.model_inputs.items()
        },
    )
    part.weight = counted(part)
    return part


def _beside(name: str, tensor: torch.Tensor, length: int) -> bool:
    """Return whether an additional tensor has a value for each position of the batch."""
    return name not in _ENCODER_SIDE and tensor.dim() > 1 and tensor.shape[1] == length


def padded(batch: Batch, columns: int, vocabulary: int) -> Batch:
    """Return the batch with padding on the right, on the side of an encoder too.

    As `Batch` defines it, padding has the document id -1 and ignored targets. It is filled with random tokens, because
    the token that stands there must not matter.

    Args:
        batch: Batch to pad.
        columns: Number of columns of padding.
        vocabulary: Vocabulary size, from which the random tokens are drawn.
    """
    rows, length = batch.inputs.shape
    device = batch.inputs.device
    generator = torch.Generator(device="cpu").manual_seed(1)
    noise = torch.randint(vocabulary, (rows, columns), generator=generator, device="cpu").to(device)

    def widened(tensor: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
        return torch.cat((tensor, fill.to(tensor.dtype)), 1)

    zeros = torch.zeros(rows, columns, dtype=torch.int64, device=device)
    fills = noise, zeros - 1, zeros
    document_ids = (
        torch.zeros_like(batch.inputs, dtype=torch.int32) if batch.document_ids is None else batch.document_ids
    )
    positions = torch.arange(length, device=device).repeat(rows, 1) if batch.positions is None else batch.positions
    return replace(
        batch,
        inputs=widened(batch.inputs, noise),
        targets=widened(batch.targets, zeros + IGNORED),
        document_ids=widened(document_ids, zeros - 1),
        positions=widened(positions, zeros),
        model_inputs={
            name: widened(tensor, zeros) if tensor.dim() == 2 and _beside(name, tensor, length) else tensor
            for name, tensor in batch.model_inputs.items()
        }
        | {name: widened(tensor, fill) for (name, tensor), fill in zip(_read(batch).items(), fills, strict=False)},
    )


def with_room(batch: Batch, columns: int, limit: int) -> Batch | None:
    """Return the batch with encoder inputs so short that padding can be added without exceeding the context of a model.

    Padding of a row is removed first, then the last tokens of its longest text.

    Args:
        batch: Batch, whose encoder inputs are shortened if it has any.
        columns: Number of columns of padding that will be added.
        limit: Context of the model in tokens.

    Returns:
        The batch; None if the texts of a row are too short to be shortened by so much.
    """
    read = _read(batch)
    surplus = (next(iter(read.values())).shape[1] + columns - limit) if read else 0
    if surplus <= 0:
        return batch
    kept = [_without(document_ids, surplus) for document_ids in read[ENCODER_DOCUMENT_IDS]]
    if any(places is None for places in kept):
        return None
    chosen = torch.stack([places for places in kept if places is not None])
    return replace(
        batch, model_inputs=batch.model_inputs | {name: tensor.gather(1, chosen) for name, tensor in read.items()}
    )


def _without(document_ids: torch.Tensor, surplus: int) -> torch.Tensor | None:
    """Return the positions of a row that remain when `surplus` of them are removed; None if its texts are too short."""
    padding = (document_ids < 0).nonzero()[:, 0].flip(0)
    texts = document_ids[document_ids >= 0]
    places = (document_ids == texts.mode().values).nonzero()[:, 0].flip(0) if len(texts) else padding[:0]
    spare = torch.cat((padding, places[:-1]))
    if len(spare) < surplus:
        return None
    kept = torch.ones_like(document_ids, dtype=torch.bool)
    kept[spare[:surplus]] = False
    return kept.nonzero()[:, 0]


def ragged(batch: Batch) -> Batch:
    """Return the batch with ever fewer targets in later rows, so that a mean over rows differs from that over all."""
    kept = batch.targets != IGNORED
    rows = kept.shape[0]
    order = kept.cumsum(1)
    limits = [max(1, int(order[row, -1]) * (rows - row) // rows) for row in range(rows)]
    return with_targets(batch, kept & (order <= torch.tensor(limits, device=kept.device)[:, None]))


def spans(batch: Batch, row: int) -> list[slice]:
    """Return the span of each document of a row, in order and without padding."""
    length = batch.inputs.shape[1]
    if batch.document_ids is None:
        return [slice(0, length)]
    document_ids = batch.document_ids[row].tolist()
    bounds = [0, *(place for place in range(1, length) if document_ids[place] != document_ids[place - 1]), length]
    return [slice(start, end) for start, end in pairwise(bounds) if document_ids[start] >= 0]


def alone(batch: Batch, row: int, span: slice) -> Batch:
    """Return one document of a row as a batch of one row, without document ids and positions."""
    part = cut(batch.take(slice(row, row + 1)), span)
    extra = part.model_inputs
    if ENCODER_INPUTS in extra:
        inputs, document_ids, _ = _read(part).values()
        number = 0 if batch.document_ids is None else int(batch.document_ids[row, span.start])
        own = {ENCODER_INPUTS: inputs[:, document_ids[0] == number]}
        extra = {name: tensor for name, tensor in extra.items() if name not in _ENCODER_SIDE} | own
    return replace(part, document_ids=None, positions=None, model_inputs=extra)


def _read(batch: Batch) -> dict[str, torch.Tensor]:
    """Return token ids, document ids and positions of the encoder inputs, in this order; empty without an encoder."""
    inputs = batch.model_inputs.get(ENCODER_INPUTS)
    if inputs is None:
        return {}
    places = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
    usual = inputs, torch.zeros_like(inputs, dtype=torch.int32), places
    return {name: batch.model_inputs.get(name, value) for name, value in zip(_ENCODER_SIDE, usual, strict=True)}


def read_by(batch: Batch, row: int, span: slice) -> list[int]:
    """Return the token ids that an encoder receives for one document of a row; an empty list without an encoder."""
    side = [tensor[row] for tensor in _read(batch).values()]
    if not side:
        return []
    number = 0 if batch.document_ids is None else int(batch.document_ids[row, span.start])
    return side[0][side[1] == number].tolist()


def beside_each_other(batches: Sequence[Batch]) -> Batch:
    """Return several batches, each of one row with one document, packed into one row."""
    inputs, document_ids, positions = _in_one_row([batch.inputs for batch in batches])
    targets = torch.cat([batch.targets for batch in batches], 1)
    extra = dict(batches[0].model_inputs)
    if ENCODER_INPUTS in extra:
        sides = _in_one_row([batch.model_inputs[ENCODER_INPUTS] for batch in batches])
        extra.update(zip(_ENCODER_SIDE, sides, strict=True))
    joined = replace(
        batches[0], inputs=inputs, targets=targets, document_ids=document_ids, positions=positions, model_inputs=extra
    )
    joined.weight = counted(joined)
    return joined


def _in_one_row(parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (1, length) token ids of all parts in one row, with their document ids and positions."""
    document_ids = [torch.full_like(part, number, dtype=torch.int32) for number, part in enumerate(parts)]
    positions = [torch.arange(part.shape[1], device=part.device)[None] for part in parts]
    return torch.cat(list(parts), 1), torch.cat(document_ids, 1), torch.cat(positions, 1)

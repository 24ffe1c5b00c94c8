"""Cutting, padding and narrowing batches, by the rules of `Batch` alone, so that any objective's can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from lavra.models.batch import IGNORED, Batch


def counted(batch: Batch) -> float:
    """Return the number of targets that are not ignored."""
    return float((batch.targets != IGNORED).sum())


def with_targets(batch: Batch, kept: torch.Tensor) -> Batch:
    """Return the batch with only the targets where (rows, length) `kept` is True."""
    narrowed = replace(batch, targets=batch.targets.masked_fill(~kept, IGNORED))
    narrowed.weight = counted(narrowed)
    return narrowed


def only(batch: Batch, row: int, position: int) -> Batch:
    """Return the batch with one target."""
    kept = torch.zeros_like(batch.targets, dtype=torch.bool)
    kept[row, position] = True
    return with_targets(batch, kept)


def take_rows(batch: Batch, rows: slice) -> Batch:
    """Return some rows of the batch."""
    part = replace(
        batch,
        inputs=batch.inputs[rows],
        targets=batch.targets[rows],
        segments=None if batch.segments is None else batch.segments[rows],
        positions=None if batch.positions is None else batch.positions[rows],
        extra={name: tensor[rows] for name, tensor in batch.extra.items()},
    )
    part.weight = counted(part)
    return part


def cut(batch: Batch, columns: slice) -> Batch:
    """Return some columns of the batch; extra tensors of the same length are cut with it."""
    length = batch.inputs.shape[1]
    part = replace(
        batch,
        inputs=batch.inputs[:, columns],
        targets=batch.targets[:, columns],
        segments=None if batch.segments is None else batch.segments[:, columns],
        positions=None if batch.positions is None else batch.positions[:, columns],
        extra={
            name: tensor[:, columns] if tensor.dim() > 1 and tensor.shape[1] == length else tensor
            for name, tensor in batch.extra.items()
        },
    )
    part.weight = counted(part)
    return part


def padded(batch: Batch, columns: int, vocabulary: int) -> Batch:
    """Return the batch with columns of padding on the right, filled with arbitrary tokens.

    Padding is what `Batch` says: segment -1 and ignored targets; what token stands there must not matter.
    """
    rows, length = batch.inputs.shape
    device = batch.inputs.device
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(vocabulary, (rows, columns), generator=generator).to(device)

    def widened(tensor: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
        return torch.cat((tensor, fill.to(tensor.dtype)), 1)

    zeros = torch.zeros(rows, columns, dtype=torch.int64, device=device)
    segments = torch.zeros_like(batch.inputs, dtype=torch.int32) if batch.segments is None else batch.segments
    positions = torch.arange(length, device=device).repeat(rows, 1) if batch.positions is None else batch.positions
    return replace(
        batch,
        inputs=widened(batch.inputs, noise),
        targets=widened(batch.targets, zeros + IGNORED),
        segments=widened(segments, zeros - 1),
        positions=widened(positions, zeros),
        extra={
            name: widened(tensor, zeros) if tensor.dim() == 2 and tensor.shape[1] == length else tensor
            for name, tensor in batch.extra.items()
        },
    )


def ragged(batch: Batch) -> Batch:
    """Return the batch with ever fewer targets in its later rows: means of rows then differ from the mean of all."""
    kept = batch.targets != IGNORED
    rows = kept.shape[0]
    order = kept.cumsum(1)
    limits = [max(1, int(order[row, -1]) * (rows - row) // rows) for row in range(rows)]
    return with_targets(batch, kept & (order <= torch.tensor(limits, device=kept.device)[:, None]))


def spans(batch: Batch, row: int) -> list[slice]:
    """Return where each document of a row stands, padding left out."""
    length = batch.inputs.shape[1]
    if batch.segments is None:
        return [slice(0, length)]
    segments = batch.segments[row].tolist()
    bounds = [0, *(place for place in range(1, length) if segments[place] != segments[place - 1]), length]
    return [slice(start, end) for start, end in pairwise(bounds) if segments[start] >= 0]


def alone(batch: Batch, row: int, span: slice) -> Batch:
    """Return one document of a row as a batch of its own, with neither segments nor positions."""
    part = cut(take_rows(batch, slice(row, row + 1)), span)
    return replace(part, segments=None, positions=None)


def beside_each_other(batches: Sequence[Batch]) -> Batch:
    """Return one-document batches of one row each as one row that holds them all."""
    lengths = [batch.inputs.shape[1] for batch in batches]
    device = batches[0].inputs.device
    joined = replace(
        batches[0],
        inputs=torch.cat([batch.inputs for batch in batches], 1),
        targets=torch.cat([batch.targets for batch in batches], 1),
        segments=torch.cat(
            [torch.full((1, n), number, dtype=torch.int32, device=device) for number, n in enumerate(lengths)], 1
        ),
        positions=torch.cat([torch.arange(n, device=device)[None] for n in lengths], 1),
    )
    joined.weight = counted(joined)
    return joined

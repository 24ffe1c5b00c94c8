"""Rows of texts that are compared with each other, as batches, and what their objectives share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.heads import head_of
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss, compared_loss, padded_width

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Model

ANCHOR, POSITIVE, NEGATIVE = 0, 1, 2
"""Roles of the texts of a row."""

_PACKED = 256
"""Most tokens of a sequence that several texts share, unless one text alone is longer."""

_NARROW = 16
"""Multiple of the length of sequences that hold one text each: texts are often short, and padding costs as much."""

INFO = ("roles", "keys", "row_weights", "scores")
"""What objectives know of each text of a batch."""


@dataclass(frozen=True)
class PairRow:
    """Two texts that belong together, and texts that do not belong to the first.

    Attributes:
        number: Number of the row in its data set.
        anchor: Token ids of the first text, such as a question, (n,).
        positive: Token ids of the text that belongs to it, or that it is compared with, (n,).
        negatives: Token ids of texts that do not belong to it although they seem to (hard negatives).
        weight: Weight of the row in the loss, 0 or more.
        score: How alike the two texts are, or by how much the positive is better than the first negative; not a number
            where nothing is known.
    """

    number: int
    anchor: np.ndarray
    positive: np.ndarray
    negatives: tuple[np.ndarray, ...] = ()
    weight: float = 1.0
    score: float = math.nan


@dataclass(frozen=True)
class VectorObjective:
    """Base class of objectives that compare the vectors of the texts of a step, see `ComparingObjective`.

    A subclass gives the roles of the texts that have a target, and `compare`, whose loss weighs as much as these texts.

    Attributes:
        context: Longest text in tokens; longer ones must have been cut before.
        isolate: Whether several texts may share a sequence, because the model keeps documents apart.
    """

    context: int
    isolate: bool = field(default=False, kw_only=True)

    @property
    def learned(self) -> tuple[int, ...]:
        """The roles of the texts that have a target."""
        return (ANCHOR,)

    def encode(self, rows: Sequence[PairRow], streams: Streams, progress: float) -> Batch:
        """Return a batch of the texts, row after row; nothing is random.

        The target of a text that has one stands at its first token, so that the weight of the batch is the number of
        those texts, or the sum of the weights of their rows where one is not 1.

        Args:
            rows: The texts.
            streams: Not used.
            progress: Not used.

        Raises:
            InputError: If a text has no tokens.
        """
        return batch_of_rows(rows, self.context, self.learned, isolate=self.isolate)

    def embed(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the (texts, dimensions) embeddings of a micro-batch, by the head that is attached to the model.

        They have the length 1, also where the head leaves their length as it is.

        Args:
            model: Model with an `EmbeddingHead`.
            batch: Batch on the model's device.
        """
        head: Any = head_of(model)
        vectors = head(model.features(batch), batch)
        return vectors if getattr(head, "options", {}).get("normalise", True) else F.normalize(vectors, dim=-1)

    def info(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return role, key, weight and score of each text, (texts,) each.

        Args:
            batch: Batch on the model's device.
        """
        there = batch.model_inputs["roles"] >= 0
        return {name: batch.model_inputs[name][there] for name in INFO}

    def compare(self, embeddings: torch.Tensor, info: dict[str, torch.Tensor], *, learning: bool = True) -> Loss:
        """Return the loss of all texts of a step; see `ComparingObjective.compare`.

        Args:
            embeddings: Embeddings of the texts, (texts, dimensions).
            info: What `info` returned of the same texts. A row begins with its anchor, which the positive follows.
            learning: Whether the model learns from it.
        """
        raise NotImplementedError

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the loss within one batch alone; a step compares all its micro-batches and processes instead.

        Args:
            model: Model with an `EmbeddingHead`.
            batch: Batch on the model's device.
            learning: Whether the model learns from it.
        """
        return compared_loss(self, model, batch, learning=learning)


@dataclass(frozen=True)
class _Place:
    """Where a text stands in a batch: its sequence, its first position, and its number among those of the sequence."""

    sequence: int
    start: int
    slot: int


def batch_of_rows(rows: Sequence[PairRow], context: int, learned: Collection[int], *, isolate: bool = False) -> Batch:
    """Return a batch of the texts of rows, in their order.

    `model_inputs` holds role, key, weight and score of each text, (sequences, most texts of a sequence); the role is -1
    where there is no text. The key is a hash of the ids, by which equal texts are known.

    Args:
        rows: The rows.
        context: Longest text in tokens.
        learned: The roles of the texts that have a target, which is the role, at their first token.
        isolate: Whether texts that fit share a sequence, which the model keeps apart.

    Raises:
        InputError: If a text has no tokens.
    """
    texts = [
        (row, min(place, NEGATIVE), ids)
        for row in rows
        for place, ids in enumerate((row.anchor, row.positive, *row.negatives))
    ]
    if empty := [row.number for row, _, ids in texts if not len(ids)]:
        raise InputError(f"row {empty[0]} has a text without tokens", "leave such rows out when preparing them")
    places, width = _placed([len(ids) for _, _, ids in texts], context, isolate)
    shape = (places[-1].sequence + 1, width)
    slots = (shape[0], max(place.slot for place in places) + 1)
    inputs, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    document_ids, targets = np.full(shape, -1, dtype=np.int32), np.full(shape, IGNORED, dtype=np.int64)
    target_weights = np.ones(shape, dtype=np.float32)
    known = {
        "roles": np.full(slots, -1, dtype=np.int64),
        "keys": np.zeros(slots, dtype=np.int64),
        "row_weights": np.zeros(slots, dtype=np.float32),
        "scores": np.full(slots, np.nan, dtype=np.float32),
    }
    for place, (row, role, ids) in zip(places, texts, strict=True):
        span = place.sequence, slice(place.start, place.start + len(ids))
        inputs[span], document_ids[span], positions[span] = ids, place.slot, np.arange(len(ids))
        target_weights[span] = row.weight
        if role in learned:
            targets[place.sequence, place.start] = role
        for name, value in zip(known, (role, _key(ids), row.weight, row.score), strict=True):
            known[name][place.sequence, place.slot] = value
    batch = Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        document_ids=torch.from_numpy(document_ids),
        positions=torch.from_numpy(positions),
        weight=float((targets != IGNORED).sum()),
        documents=tuple(row.number for row in rows),
        model_inputs={name: torch.from_numpy(values) for name, values in known.items()},
    )
    return batch if bool((target_weights == 1).all()) else batch.weighted(torch.from_numpy(target_weights))


def _placed(lengths: Sequence[int], context: int, isolate: bool) -> tuple[list[_Place], int]:
    """Return where each text stands, and the length of the sequences.

    Texts that share sequences fill one after the other (next fit), so that they stay in their order.
    """
    if not isolate:
        return [_Place(number, 0, 0) for number in range(len(lengths))], padded_width(max(lengths), context, _NARROW)
    room = max(max(lengths), min(context, _PACKED))
    places: list[_Place] = []
    sequence = used = slot = widest = 0
    for length in lengths:
        if used + length > room:
            sequence, used, slot = sequence + 1, 0, 0
        places.append(_Place(sequence, used, slot))
        used, slot = used + length, slot + 1
        widest = max(widest, used)
    return places, padded_width(widest, room, _NARROW)


def _key(ids: np.ndarray) -> int:
    """Return a number of 63 bits that equal texts share and different ones practically never do."""
    digest = hashlib.blake2b(np.ascontiguousarray(ids, dtype=np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def pairs_of(embeddings: torch.Tensor, info: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the cosine of anchor and positive of each row, (rows,), and what is known of the rows, (rows,) each.

    Args:
        embeddings: Embeddings of length 1, (texts, dimensions).
        info: What is known of the texts.
    """
    anchors, positives = ((info["roles"] == role).nonzero()[:, 0] for role in (ANCHOR, POSITIVE))
    cosines = (embeddings[anchors] * embeddings[positives]).sum(-1)
    return cosines, {name: values[anchors] for name, values in info.items()}


def weight_of(weights: torch.Tensor) -> float:
    """Return the sum of the weights of rows as a number, exact however many they are."""
    return float(weights.double().sum())

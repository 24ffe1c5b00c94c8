"""Answers: a decoder reads a prompt and learns only what comes after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lavra.models.contract import IGNORED, Batch
from lavra.objectives.base import Loss, loss_at_targets, padded_width

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.examples.store import PackedRow
    from lavra.models.contract import Model


@dataclass(frozen=True)
class Answers:
    """Next-token prediction of the learned tokens of examples, several of which may share a row.

    Every example is a segment of its own: it sees nothing of the others, and its positions count from 0.

    Attributes:
        context: longest row; a batch is as wide as its longest row needs.
        label_smoothing: share of each target's probability that is spread over the vocabulary while learning; what is
            only measured is the plain likelihood.
    """

    context: int
    label_smoothing: float = 0.0

    def encode(self, rows: Sequence[PackedRow], streams: Streams, progress: float) -> Batch:
        """Lay the examples out; position i of one reads its token i and predicts token i + 1. Nothing is random."""
        shape = (len(rows), padded_width(max(row.length for row in rows), self.context))
        inputs = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        segments = np.full(shape, -1, dtype=np.int32)
        positions = np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            start = 0
            for segment, example in enumerate(row.examples):
                span = slice(start, start + example.length)
                inputs[number, span] = example.tokens[:-1]
                targets[number, span] = np.where(example.learned[1:], example.tokens[1:], IGNORED)
                segments[number, span] = segment
                positions[number, span] = np.arange(example.length)
                start = span.stop
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            segments=torch.from_numpy(segments),
            positions=torch.from_numpy(positions),
            weight=float((targets != IGNORED).sum()),
            documents=tuple(example.number for row in rows for example in row.examples),
        )

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the learned tokens."""
        return loss_at_targets(model, batch, self.label_smoothing if learning else 0.0)

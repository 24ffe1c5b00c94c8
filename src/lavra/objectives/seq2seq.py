"""Sequence to sequence: an encoder reads one text, a decoder learns to write another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Shift = Callable[[Sequence[int]], list[int]]
"""From targets to what the decoder reads, one place behind; a model's own rule."""


@dataclass(frozen=True)
class StartToken:
    """The usual rule of shifting right: a start token, then the targets without the last (T5: its padding token)."""

    start: int

    def __call__(self, targets: Sequence[int]) -> list[int]:
        """Return the decoder's inputs."""
        return [self.start, *targets[:-1]]


@dataclass(frozen=True)
class Seq2Seq:
    """Prediction of the target text from the source text, several examples to a row on both sides.

    The decoder's segment s sees itself and the encoder's segment s of the same row, and nothing else.

    Attributes:
        context: longest row of the decoder's side.
        source_context: longest row of the encoder's side; None for no limit.
        shift: the model's rule for what its decoder reads.
        label_smoothing: share of each target's probability that is spread over the vocabulary while learning; what is
            only measured is the plain likelihood.
    """

    context: int
    source_context: int | None = None
    shift: Shift = StartToken(0)
    label_smoothing: float = 0.0

    def encode(self, rows: Sequence[PackedRow], streams: Streams, progress: float) -> Batch:
        """Lay both sides out; the encoder's is in `extra`. Nothing is random.

        Raises:
            ValueError: if an example has no source.
        """
        shape = (len(rows), padded_width(max(row.length for row in rows), self.context))
        inputs, segments, positions = _empty(shape)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        read = _empty((len(rows), padded_width(max(row.source_length for row in rows), self.source_context)))
        for number, row in enumerate(rows):
            start = source_start = 0
            for segment, example in enumerate(row.examples):
                if example.source is None:
                    raise ValueError(f"example {example.number} has no source: it was prepared for a decoder")
                span = slice(start, start + example.length)
                inputs[number, span] = self.shift(example.tokens.tolist())
                targets[number, span] = np.where(example.learned, example.tokens, IGNORED)
                segments[number, span], positions[number, span] = segment, np.arange(example.length)
                source_span = slice(source_start, source_start + len(example.source))
                for side, values in zip(read, (example.source, segment, np.arange(len(example.source))), strict=True):
                    side[number, source_span] = values
                start, source_start = span.stop, source_span.stop
        names = ("encoder_inputs", "encoder_segments", "encoder_positions")
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            segments=torch.from_numpy(segments),
            positions=torch.from_numpy(positions),
            weight=float((targets != IGNORED).sum()),
            documents=tuple(example.number for row in rows for example in row.examples),
            extra={name: torch.from_numpy(side) for name, side in zip(names, read, strict=True)},
        )

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the target texts, end tokens included."""
        return loss_at_targets(model, batch, self.label_smoothing if learning else 0.0)


def _empty(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, segments and positions of rows that hold nothing yet."""
    return np.zeros(shape, np.int64), np.full(shape, -1, np.int32), np.zeros(shape, np.int64)

"""Sequence to sequence: an encoder reads the source text, and a decoder learns to write the target text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss, loss_at_targets, padded_width

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.examples.store import PackedRow
    from lavra.models.protocols import Model

Shift = Callable[[Sequence[int]], list[int]]
"""Function from the target ids to the ids that the decoder reads, shifted right by one; each model has its own rule."""


@dataclass(frozen=True)
class StartToken:
    """The usual way to shift targets right: the decoder start token, then all targets but the last.

    Attributes:
        start: Id of the decoder start token. That of T5 is its padding token.

    Examples:
        >>> StartToken(0)([7, 8, 1])
        [0, 7, 8]
    """

    start: int

    def __call__(self, targets: Sequence[int]) -> list[int]:
        """Return the ids that the decoder reads, as many as there are targets.

        Args:
            targets: Ids of the target text.
        """
        return [self.start, *targets[:-1]]


@dataclass(frozen=True)
class Seq2Seq:
    """Prediction of the target text from the source text, with several examples in a sequence on both sides.

    The target of an example attends to itself and to the source of the same example, and to nothing else.

    Attributes:
        context: Longest sequence of the decoder in tokens.
        source_context: Longest sequence of the encoder in tokens; None sets no limit.
        shift: Function from the targets to the ids that the decoder reads.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.
            Validation measures the plain likelihood.
        z_loss: Weight of the squared logarithm of the softmax normaliser while the model learns; 0 for none.
    """

    context: int
    source_context: int | None = None
    shift: Shift = StartToken(0)
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def encode(self, rows: Sequence[PackedRow], streams: Streams, progress: float) -> Batch:
        """Return a batch of both sides, the encoder's side in `extra`; nothing is random.

        Args:
            rows: Packed rows, each with the examples that share a sequence.
            streams: Not used.
            progress: Not used.

        Raises:
            ValueError: If an example has no source, because it was prepared for a decoder.
        """
        shape = (len(rows), padded_width(max(row.length for row in rows), self.context))
        inputs, document_ids, positions = _empty(shape)
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
                document_ids[number, span], positions[number, span] = segment, np.arange(example.length)
                source_span = slice(source_start, source_start + len(example.source))
                for side, values in zip(read, (example.source, segment, np.arange(len(example.source))), strict=True):
                    side[number, source_span] = values
                start, source_start = span.stop, source_span.stop
        names = ("encoder_inputs", "encoder_document_ids", "encoder_positions")
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            document_ids=torch.from_numpy(document_ids),
            positions=torch.from_numpy(positions),
            weight=float((targets != IGNORED).sum()),
            documents=tuple(example.number for row in rows for example in row.examples),
            model_inputs={name: torch.from_numpy(side) for name, side in zip(names, read, strict=True)},
        )

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the target texts in nats, each token times its weight.

        Args:
            model: Encoder-decoder that computes the features and owns the output projection.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is not smoothed.
        """
        smoothing, z_loss = (self.label_smoothing, self.z_loss) if learning else (0.0, 0.0)
        return loss_at_targets(model, batch, smoothing, z_loss)


def _empty(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, document numbers and positions of padding alone, for sequences that are still to be filled."""
    return np.zeros(shape, np.int64), np.full(shape, -1, np.int32), np.zeros(shape, np.int64)

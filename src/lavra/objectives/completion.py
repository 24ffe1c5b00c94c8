"""Completions: a decoder reads a prompt and learns only the text that follows it (supervised fine-tuning)."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Completion:
    """Next-token prediction of the learned tokens of examples, several of which may share a sequence.

    An example attends to nothing outside itself, and its positions are counted from 0.

    Attributes:
        context: Longest sequence in tokens. A batch is only as long as its longest sequence needs.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.
            Validation measures the plain likelihood.
        z_loss: Weight of the squared logarithm of the softmax normaliser while the model learns; 0 for none.

    Examples:
        The prompt is tokens 3 and 4; only the completion, tokens 8 and 1, is learned:

        >>> import numpy as np
        >>> from lavra.data.examples.store import Example, PackedRow
        >>> example = Example(0, np.array([3, 4, 8, 1]), np.array([False, False, True, True]))
        >>> batch = Completion(context=4).encode([PackedRow((example,))], streams=None, progress=0.0)
        >>> batch.inputs.tolist(), batch.targets.tolist()
        ([[3, 4, 8, 0]], [[-100, 8, 1, -100]])
    """

    context: int
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def encode(self, rows: Sequence[PackedRow], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each packed row; nothing is random.

        Position i of an example reads its token i and predicts its token i + 1.

        Args:
            rows: Packed rows, each with the examples that share a sequence.
            streams: Not used.
            progress: Not used.
        """
        shape = (len(rows), padded_width(max(row.length for row in rows), self.context))
        inputs = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        document_ids = np.full(shape, -1, dtype=np.int32)
        positions = np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            start = 0
            for segment, example in enumerate(row.examples):
                span = slice(start, start + example.length)
                inputs[number, span] = example.tokens[:-1]
                targets[number, span] = np.where(example.learned[1:], example.tokens[1:], IGNORED)
                document_ids[number, span] = segment
                positions[number, span] = np.arange(example.length)
                start = span.stop
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            document_ids=torch.from_numpy(document_ids),
            positions=torch.from_numpy(positions),
            weight=float((targets != IGNORED).sum()),
            documents=tuple(example.number for row in rows for example in row.examples),
        )

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the learned tokens in nats, each times its weight.

        Args:
            model: Model that computes the features and owns the output projection.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is not smoothed.
        """
        smoothing, z_loss = (self.label_smoothing, self.z_loss) if learning else (0.0, 0.0)
        return loss_at_targets(model, batch, smoothing, z_loss)

"""The causal objective: predict every token from those before it in its own document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lavra.models.batch import IGNORED, Batch
from lavra.objectives.base import Loss
from lavra.objectives.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
    from lavra.models.contract import Model


@dataclass(frozen=True)
class Causal:
    """Next-token prediction on packed windows.

    Attributes:
        context: length of a row; a shorter window (the last of an epoch) is filled up with ignored positions.
        isolate: positions see only their own document and count from its beginning; otherwise a window is one text.
        label_smoothing: share of each target's probability that is spread over the vocabulary while learning; what is
            only measured (features without gradient) is the plain likelihood.
    """

    context: int
    isolate: bool = True
    label_smoothing: float = 0.0

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Lay windows out as rows of one batch; nothing is random.

        Position i reads token i of the circular stream and predicts token i + 1. Its segment is the document of the
        token that it predicts: the end-of-document token before a document serves as that document's beginning.
        """
        shape = (len(rows), self.context)
        inputs = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        segments = np.full(shape, -1, dtype=np.int32)
        positions = np.zeros(shape, dtype=np.int64)
        for row, window in enumerate(rows):
            length = len(window)
            inputs[row, :length] = window.tokens[:-1]
            targets[row, :length] = window.tokens[1:]
            if self.isolate:
                segments[row, :length], positions[row, :length] = window.segments, window.positions
            else:
                segments[row, :length], positions[row, :length] = 0, np.arange(length)
        whole = all(len(window) == self.context for window in rows)
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            segments=torch.from_numpy(segments) if self.isolate or not whole else None,
            positions=torch.from_numpy(positions) if self.isolate or not whole else None,
            weight=float(sum(len(window) for window in rows)),
            documents=tuple(int(document) for window in rows for document in np.unique(window.documents)),
        )

    def loss(self, model: Model, batch: Batch) -> Loss:
        """Return the summed negative log-likelihood of the batch's targets."""
        features = model.features(batch)
        weight, bias = model.output_projection()
        total = summed_cross_entropy(
            features.reshape(-1, features.shape[-1]),
            weight,
            batch.targets.reshape(-1),
            bias=bias,
            vocabulary=model.vocabulary,
            label_smoothing=self.label_smoothing if features.requires_grad else 0.0,
        )
        return Loss(total, batch.weight)

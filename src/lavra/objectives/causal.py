"""The causal objective: predict every token from those before it in its own document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavra.models.batch import Batch
from lavra.models.contract import logit_cap_of
from lavra.objectives.base import Loss
from lavra.objectives.cross_entropy import summed_cross_entropy
from lavra.objectives.window_rows import batch_of_windows

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
        compiled: whether the loss may be compiled, as the blocks of the model are.
    """

    context: int
    isolate: bool = True
    label_smoothing: float = 0.0
    compiled: bool = False

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Lay windows out as rows of one batch; nothing is random.

        Position i reads token i of the circular stream and predicts token i + 1. Its segment is the document of the
        token that it predicts: the end-of-document token before a document serves as that document's beginning.
        """
        return batch_of_windows(
            rows, self.context, self.isolate, lambda _, window: (window.tokens[:-1], window.tokens[1:])
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
            compiled=self.compiled,
            cap=logit_cap_of(model),
        )
        return Loss(total, batch.weight)

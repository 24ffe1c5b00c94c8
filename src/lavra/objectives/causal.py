"""The causal objective: predict every token from those before it in its own document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavra.models.contract import Batch, logit_cap_of
from lavra.objectives.base import Loss, batch_of_windows
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
            only measured is the plain likelihood.
        compiled: whether the loss may be compiled, as the blocks of the model are.
    """

    context: int
    isolate: bool = True
    label_smoothing: float = 0.0
    compiled: bool = False

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Lay windows out as rows of one batch; nothing is random.

        Position i reads input i of the window and predicts token i + 1 of its stretch of the stream. Its segment is the
        document of the token that it predicts, and its input is that document's beginning where it is the first.
        """
        return batch_of_windows(rows, self.context, self.isolate, lambda _, window: (window.inputs, window.tokens[1:]))

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the batch's targets."""
        features = model.features(batch)
        weight, bias = model.output_projection()
        total = summed_cross_entropy(
            features.reshape(-1, features.shape[-1]),
            weight,
            batch.targets.reshape(-1),
            bias=bias,
            vocabulary=model.vocabulary,
            label_smoothing=self.label_smoothing if learning else 0.0,
            compiled=self.compiled,
            cap=logit_cap_of(model),
        )
        return Loss(total, batch.weight)

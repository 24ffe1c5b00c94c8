"""Multi-sample dropout with the mean of losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lavra.core.errors import InputError
from lavra.models.heads import head_of
from lavra.objectives.base import Loss
from lavra.objectives.wrapping import GivenOutputs, Wrapper

if TYPE_CHECKING:
    from lavra.models.protocols import Batch, Model


@dataclass(frozen=True, eq=False)
class MultiSampleDropout(Wrapper):
    """Computes the head of each text with several dropout masks, and learns the mean of the losses (Inoue 2019, arXiv
    1905.09788). The body of the model is computed once.

    The mean of the outputs instead, as in the code of competitions, is `SequenceHead.dropout_samples`.

    Attributes:
        samples: Number of masks, at least 1; 1 is the objective inside, to the bit.

    Raises:
        InputError: If there is no sample.
    """

    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"{self.samples} samples of dropout are not possible", "choose at least 1")

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the mean of the summed losses over the masks; the loss without dropout if it is only measured.

        Args:
            model: Model with a head of texts that has `pooled` and `outputs`, as `SequenceHead`.
            batch: Batch on the model's device.
            learning: Whether the model learns from it.
        """
        if self.samples == 1 or not learning:
            return self.inner.loss(model, batch, learning=learning)
        head: Any = head_of(model)
        features = model.features(batch)
        vectors = head.pooled(features, batch)
        judged = [cast("Model", GivenOutputs(model, features, head.outputs(vectors))) for _ in range(self.samples)]
        losses = [self.inner.loss(one, batch) for one in judged]
        return Loss(sum((loss.sum for loss in losses[1:]), losses[0].sum) / self.samples, losses[0].weight)

"""R-Drop: two passes with different dropout are to agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lavra.core.errors import InputError
from lavra.objectives.base import Loss
from lavra.objectives.wrapping import RecordedOutputs, Wrapper

if TYPE_CHECKING:
    from lavra.models.protocols import Batch, Model


@dataclass(frozen=True, eq=False)
class RDrop(Wrapper):
    """Computes each batch twice, and learns also that both passes say the same (Wu et al. 2021, arXiv 2106.14448).

    The loss is the mean of the losses of both passes, plus alpha times the symmetric divergence of their outputs, as in
    the authors' code. The passes differ by dropout alone. A step costs twice as much.

    Attributes:
        alpha: Weight of the divergence, 0 or more; 0 is the objective inside, to the bit, with a single pass.

    Raises:
        InputError: If alpha is negative, or the objective inside has no divergence of outputs.
    """

    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise InputError(f"a weight of {self.alpha:g} for R-Drop is not possible", "choose 0 or more")
        if self._judge is None:
            raise InputError("R-Drop needs an objective of classes, labels or values", "leave out --r-drop")

    @property
    def _judge(self) -> Any:
        """The objective inside that says how far outputs are apart; None where there is none."""
        judge: Any = self.inner
        while judge is not None and not hasattr(judge, "divergence"):
            judge = getattr(judge, "inner", None)
        return judge

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed loss of both passes with their divergence; that of one pass if it is only measured.

        Args:
            model: Model with the head of the task, and with dropout.
            batch: Batch on the model's device.
            learning: Whether the model learns from it.
        """
        if not self.alpha or not learning:
            return self.inner.loss(model, batch, learning=learning)
        one, other = RecordedOutputs(model), RecordedOutputs(model)
        losses = [self.inner.loss(cast("Model", recorded), batch) for recorded in (one, other)]
        apart = self._judge.divergence(one.outputs, other.outputs, batch)
        return Loss((losses[0].sum + losses[1].sum) / 2 + self.alpha * apart, losses[0].weight)

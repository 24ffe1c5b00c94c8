"""Anomalies: a step whose loss or gradient is not finite, or is a spike, is never applied to the weights."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lavra.config.choices import Policy
from lavra.core.errors import Diverged
from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome, Update

# Loss spikes: steps whose loss or gradient norm lies far above that of the steps before.
#
# The measure is the robust z-score (Iglewicz and Hoaglin 1993, "How to detect and handle outliers"): the distance from
# the median of a trailing window, divided by 1.4826 times the median absolute deviation (MAD), which for normal noise
# is the standard deviation. A few spikes in the window hardly move median and MAD, so one spike does not hide the next.

_NORMAL = 1.4826
"""Ratio of the standard deviation of a normal distribution to its median absolute deviation."""

_SMALLEST_NOISE = 0.002
"""Smallest standard deviation that is assumed: nats for the loss, a relative change for the gradient norm. Without this
limit, a nearly flat loss curve would make every small change look like a spike."""


@dataclass(frozen=True)
class Spike:
    """A step whose loss or gradient norm is an outlier.

    Attributes:
        signal: "loss" or "gradient_norm", whichever lies further from the usual.
        value: Loss in nats, or gradient norm, of this step.
        usual: Median of the same quantity over the trailing window.
        z: Robust z-score of `value`; infinite for a value that is not finite. The gradient norm is scored by its
            logarithm.
    """

    signal: str
    value: float
    usual: float
    z: float

    def __str__(self) -> str:
        name = self.signal.replace("_", " ")
        return f"{name} {self.value:.4g}, where {self.usual:.4g} is usual (robust z-score {self.z:.1f})"


class SpikeDetector:
    """Detects outliers among the losses and gradient norms of a run, each against a trailing window of earlier steps.

    The answers depend only on the values observed so far, so a resumed run gives the same ones. The gradient norm is
    compared by its logarithm, because it varies by factors. Only values above the median count as spikes.

    Args:
        window: Number of earlier steps that are compared with. It is short because the normal decrease of the loss
            within the window counts as noise.
        threshold: Robust z-score from which a step is a spike. Normal noise practically never reaches 8, and
            heavy-tailed noise rarely does.
        warmup: Number of steps to observe before any step can be a spike; between 2 and `window`.

    Raises:
        ValueError: if `warmup` or `threshold` is out of range.

    Examples:
        >>> detector = SpikeDetector(window=8, warmup=4)
        >>> [detector.observe(loss, 1.0) for loss in (4.00, 3.99, 4.01, 4.00)]
        [None, None, None, None]
        >>> print(detector.observe(9.0, 1.0).signal)
        loss
    """

    def __init__(self, window: int = 64, threshold: float = 8.0, warmup: int = 32) -> None:
        if not 2 <= warmup <= window or threshold <= 0:
            raise ValueError("a spike detector needs 2 <= warmup <= window and a threshold above 0")
        self.threshold, self.warmup = threshold, warmup
        self._losses: deque[float] = deque(maxlen=window)
        self._log_norms: deque[float] = deque(maxlen=window)

    def observe(self, loss: float, gradient_norm: float) -> Spike | None:
        """Add the values of one step to the window, and return the spike if the step is one, else None.

        Args:
            loss: Mean loss of the step in nats per target.
            gradient_norm: L2 norm of the gradient before clipping, 0 or more.
        """
        log_norm = math.log(max(gradient_norm, 1e-30)) if gradient_norm < math.inf else math.inf
        z_loss, usual_loss = self._judge(self._losses, loss)
        z_norm, usual_log_norm = self._judge(self._log_norms, log_norm)
        if max(z_loss, z_norm) < self.threshold:
            return None
        if z_loss >= z_norm:
            return Spike("loss", loss, usual_loss, z_loss)
        return Spike("gradient_norm", gradient_norm, math.exp(usual_log_norm), z_norm)

    def _judge(self, history: deque[float], value: float) -> tuple[float, float]:
        """Return the z-score of `value` and the median of `history`; then add the value to `history` if finite."""
        usual = _median(history) if history else value
        if not math.isfinite(value):
            return math.inf, usual
        z = 0.0
        if len(history) >= self.warmup:
            deviation = _median([abs(other - usual) for other in history])
            z = (value - usual) / max(_NORMAL * deviation, _SMALLEST_NOISE)
        history.append(value)
        return z, usual

    def state_dict(self) -> dict[str, Any]:
        """Return the window as plain numbers, which a checkpoint stores as JSON."""
        return {"losses": list(self._losses), "log_norms": list(self._log_norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the window of `state_dict`; of a window longer than this detector's, only the most recent values."""
        for history, name in ((self._losses, "losses"), (self._log_norms, "log_norms")):
            history.clear()
            history.extend(state[name])


def _median(values: deque[float] | list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


# The update that refuses such steps.


class RollBack(Exception):
    """Asks the training loop to return to the last checkpoint and to skip one step from then on.

    Attributes:
        step: Number of the step to skip, counted from 0.
        reason: What was wrong with the step, in words.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class AnomalyGuard(Update):
    """Update that refuses a step with an anomaly before the optimiser applies it.

    Args:
        policy: What happens to such a step: `skip` does not apply it, `rollback` also returns to the last checkpoint,
            and `stop` ends the run.
        record: Function that is called with the step and the reason, to log which documents the step contained.
        max_in_a_row: Number of consecutive anomalous steps that are tolerated; one more ends the run under any policy.
        spikes: Detector of outliers in loss and gradient norm. None refuses only steps that are not finite.

    Attributes:
        bad: Numbers of the steps that were refused so far. Returning to a checkpoint does not clear them, so that a run
            which keeps rolling back comes to an end.
    """

    name = "anomalies"

    def __init__(
        self,
        policy: Policy,
        record: Callable[[Step, str], None],
        *,
        max_in_a_row: int = 10,
        spikes: SpikeDetector | None = None,
    ) -> None:
        self.policy, self.record, self.max_in_a_row, self.spikes = policy, record, max_in_a_row, spikes
        self.bad: set[int] = set()

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Apply the step if its loss and gradient are sound, and return the outcome.

        A step that an update further inside refuses is an anomaly, too.

        Raises:
            RollBack: if the step is anomalous and the policy is `rollback`.
            Diverged: if the step is anomalous and the policy is `stop`, or if too many in a row were.
        """
        reason = self._fault(step)
        if reason is None:
            outcome = inner()
            if outcome.applied:
                return outcome
            reason = outcome.reason  # an update further inside refused the step
        self.bad.add(step.number)
        self.record(step, reason)
        in_a_row = self._in_a_row(step.number)
        if self.policy == "stop" or in_a_row > self.max_in_a_row:
            raise Diverged(
                f"step {step.number + 1}: {reason}" + (f"; bad step {in_a_row} in a row" if in_a_row > 1 else ""),
                "events.log names the documents of that step; look at them, then train again with a lower "
                "--optimization.learning-rate, or with --machine.precision fp32",
            )
        if self.policy == "rollback":
            raise RollBack(step.number, reason)
        return Outcome(applied=False, reason=reason)

    def _in_a_row(self, number: int) -> int:
        count = 0
        while number - count in self.bad:
            count += 1
        return count

    def _fault(self, step: Step) -> str | None:
        norm = step.gradient_norm()
        if not math.isfinite(step.loss):
            return f"the loss is {step.loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        spike = self.spikes.observe(step.loss, norm) if self.spikes else None
        return None if spike is None else str(spike)

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of the refused steps and the window of the spike detector, as JSON values."""
        return {"bad": sorted(self.bad), "spikes": self.spikes.state_dict() if self.spikes else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; steps that were refused after it was saved stay refused."""
        self.bad |= set(state["bad"])
        if self.spikes and state["spikes"]:
            self.spikes.load_state_dict(state["spikes"])

"""Numeric faults: a step whose loss or gradient is not finite, or which is a spike, never reaches the weights."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lavra.config.choices import Policy
from lavra.core.errors import Diverged
from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome

# Loss spikes: a step whose loss or gradient norm lies far above what the steps before it had.
#
# The measure is the robust z-score (Iglewicz and Hoaglin, 1993): the distance from the median of a trailing window, in
# units of 1.4826 times the median absolute deviation, which for normal noise is the standard deviation. Median and
# deviation hardly move when a few spikes lie in the window, so a spike does not hide the next one.

_NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
# Less noise than this (nats; for the gradient norm a share of it) is not believed, lest a flat curve alarm at a wiggle.
_SMALLEST_NOISE = 0.002


@dataclass(frozen=True)
class Spike:
    """What was out of the ordinary in one step.

    `signal` is "loss" (nats) or "gradient_norm"; `value` is the step's, `usual` the median of the window before it, and
    `z` the robust z-score (infinite for a value that is not finite; on the logarithm for the gradient norm).
    """

    signal: str
    value: float
    usual: float
    z: float

    def __str__(self) -> str:
        name = self.signal.replace("_", " ")
        return f"{name} {self.value:.4g}, where {self.usual:.4g} is usual (robust z-score {self.z:.1f})"


class SpikeDetector:
    """Compares each step with the trailing window of steps before it; a pure function of the values shown to it.

    The gradient norm is compared by its logarithm, because it varies by factors. Only values above the usual alarm.

    Args:
        window: steps that are looked back on; few, because the fall of the loss within the window counts as noise.
        threshold: the z-score from which a step is a spike. Normal noise does not pass 8, heavy-tailed noise hardly.
        warmup: steps to see before any can be a spike.
    """

    def __init__(self, window: int = 64, threshold: float = 8.0, warmup: int = 32) -> None:
        if not 2 <= warmup <= window or threshold <= 0:
            raise ValueError("a spike detector needs 2 <= warmup <= window and a threshold above 0")
        self.threshold, self.warmup = threshold, warmup
        self._losses: deque[float] = deque(maxlen=window)
        self._log_norms: deque[float] = deque(maxlen=window)

    def observe(self, loss: float, gradient_norm: float) -> Spike | None:
        """Return the spike of this step, if it is one, and remember its values.

        Args:
            loss: the step's mean loss, in nats.
            gradient_norm: the norm of its gradient before clipping, 0 or more.
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
        """Return the z-score of `value` and the median before it; then remember the value, if it is finite."""
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
        """Return the window as plain numbers, for a checkpoint's JSON."""
        return {"losses": list(self._losses), "log_norms": list(self._log_norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the window of `state_dict`; of a longer one, with its most recent values."""
        for history, name in ((self._losses, "losses"), (self._log_norms, "log_norms")):
            history.clear()
            history.extend(state[name])


def _median(values: deque[float] | list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


# Numeric faults: a step whose loss or gradient is not finite, or which is a spike, never reaches the weights.


class RollBack(Exception):
    """Asks the loop to go back to the last checkpoint and to leave out the step numbered `step` (from 0)."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class GuardFaults:
    """Refuses a bad step before it is applied.

    Args:
        policy: `skip` leaves the step out; `rollback` also goes back to the last checkpoint; `stop` ends the run.
        most_in_a_row: bad steps of consecutive numbers that are put up with; one more ends the run in any case.
        spikes: also refuse steps whose loss or gradient norm is far from the recent ones; None does not look.
        record: is given (step, reason) of each bad step, to write down its documents.

    Attributes:
        bad: numbers of the steps refused so far. Going back to a checkpoint does not forget them, so that a run which
            only rolls back comes to an end.
    """

    name = "faults"

    def __init__(
        self,
        policy: Policy,
        record: Callable[[Step, str], None],
        *,
        most_in_a_row: int = 10,
        spikes: SpikeDetector | None = None,
    ) -> None:
        self.policy, self.record, self.most_in_a_row, self.spikes = policy, record, most_in_a_row, spikes
        self.bad: set[int] = set()

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Apply the step if it is sound.

        Raises:
            RollBack: for a bad step under the policy `rollback`.
            Diverged: for a bad step under `stop`, or after too many in a row.
        """
        reason = self._fault(step)
        if reason is None:
            return inner()
        self.bad.add(step.number)
        self.record(step, reason)
        in_a_row = self._in_a_row(step.number)
        if self.policy == "stop" or in_a_row > self.most_in_a_row:
            raise Diverged(
                f"step {step.number + 1}: {reason}" + (f"; bad step {in_a_row} in a row" if in_a_row > 1 else ""),
                "events.log names the documents; look at them, then train again with a lower "
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
            return f"the gradient's norm is {norm}"
        spike = self.spikes.observe(step.loss, norm) if self.spikes else None
        return None if spike is None else str(spike)

    def state_dict(self) -> dict[str, Any]:
        """Return the bad steps and the detector's window."""
        return {"bad": sorted(self.bad), "spikes": self.spikes.state_dict() if self.spikes else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; bad steps found since it was saved stay known."""
        self.bad |= set(state["bad"])
        if self.spikes and state["spikes"]:
            self.spikes.load_state_dict(state["spikes"])

"""Numeric faults: a step whose loss or gradient is not finite, or which is a spike, never reaches the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lavra.core.errors import Diverged
from lavra.training.choices import Policy
from lavra.training.spikes import SpikeDetector
from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome


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

"""The time budget: the length of a timed run is set again by its actual speed, shortly before the rates decay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from lavra.config.training import TrainConfig
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.planning.plan import Plan

_MOMENT = 0.85
"""Share of the steps before the decay after which the length is set; it must be below 1, so that the run may still
become shorter."""

_LEAST_STEPS = 5
"""Fewest steps from which a speed is measured; fewer give no reliable speed."""

_MOST_MORE = 1.5
"""Most by which the number of steps may be multiplied."""

_WORTH_SAYING = 0.02
"""Relative change of the number of steps from which on it is printed; a smaller one is only logged."""


def begins_alike(plan: Plan, config: TrainConfig) -> bool:
    """Return whether the first steps of a run do not depend on its length, so that the length may be set while it runs.

    That holds for learning rates that stay constant after the warm-up, for a constant masking rate, and without
    snapshots of the weights at shares of the run.

    Args:
        plan: The plan of the run.
        config: The request.
    """
    wide = plan.schedule.shape in ("constant", "wsd") and config.average.kind != "swa"
    return wide and plan.mask_rate == plan.final_mask_rate


class TimeBudget:
    """Sets the length of a run so that its last step ends when the time budget ends.

    The speed is that of the second half of the steps up to the moment of the decision, validations and checkpoints
    included. The new length keeps that moment within the constant learning rates. Every step before it is therefore the
    same as in a run of the new length, and a checkpoint from there can be resumed with the new plan.

    Args:
        plan: The plan of the run, whose first steps do not depend on its length (`begins_alike`).
        step: The step at which the run is.
        end: When the last step should be done (`time.monotonic`).
        accept: The function that takes the new plan, before a step is taken that depends on it.
        clock: The function that returns the time in seconds; None for `time.monotonic`.
    """

    def __init__(
        self,
        plan: Plan,
        step: int,
        end: float,
        accept: Callable[[Plan], None],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.plan, self.end, self.accept, self.clock = plan, end, accept, clock or time.monotonic
        self.moment = int(_MOMENT * plan.schedule.decay_begins(plan.steps))
        self._mark_step = max(step, self.moment // 2)
        self._mark_time = self.clock()

    def steps_after(self, step: int) -> int:
        """Return the length of the run in steps, after `step` steps are done."""
        if step == self._mark_step:
            self._mark_time = self.clock()
        elif step == self.moment and step - self._mark_step >= _LEAST_STEPS:
            self._fix(step)
        return self.plan.steps

    def _fix(self, step: int) -> None:
        now, plan = self.clock(), self.plan
        seconds = (now - self._mark_time) / (step - self._mark_step)
        wanted = step + int((self.end - now) / seconds)
        # The decay starts at a fixed share of the run: in a run that is too short it would have started already.
        least = math.ceil(plan.steps * step / plan.schedule.decay_begins(plan.steps))
        steps = min(max(wanted, least), int(_MOST_MORE * plan.steps))
        if steps == plan.steps:
            return
        factor = steps / plan.steps
        self.plan = replace(plan, steps=steps, tokens=steps * plan.batch_tokens, epochs=round(plan.epochs * factor, 4))
        self.accept(self.plan)
        if abs(factor - 1.0) >= _WORTH_SAYING:
            fit = "fits" if steps == 1 else "fit"
            log(f"a step takes {seconds:.3g} s: {counted(steps, 'step')} {fit} into the time, not {plan.steps:,}")

"""Fixing the length of a timed run once more, by the speed that it really had, shortly before its rates fall."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from lavra.config.training import TrainConfig
from lavra.core.progress import say
from lavra.core.units import counted
from lavra.planning.plan import Plan

_MOMENT = 0.85
"""Share of the steps before the fall of the rates after which the length is fixed: it may still become shorter then."""

_LEAST_STEPS = 5
"""That a speed is read off."""

_MOST_MORE = 1.5
"""What the steps of the plan may be multiplied by."""

_WORTH_SAYING = 0.02
"""Share of the steps; a smaller change is written down only."""


def begins_alike(plan: Plan, config: TrainConfig) -> bool:
    """Say whether the first steps of a run are the same whatever its length, so that it may be fixed while it runs."""
    wide = plan.schedule.shape in ("constant", "wsd") and config.average.kind != "swa"
    return wide and plan.mask_rate == plan.final_mask_rate


class Pace:
    """Sets the length of a run so that its last step ends when it should.

    The speed is that of the second half of the steps up to that moment, validations and checkpoints included. The new
    length keeps the moment within the constant rates, so that every step before it is what a run of the new length
    would have done, and a checkpoint from there can be resumed by the new plan.

    Args:
        plan: of the run; its first steps do not depend on its length (`begins_alike`).
        step: at which the run is.
        end: when the last step should be done (`time.monotonic`).
        accept: takes the new plan, before a step is taken that depends on it.
        clock: seconds.
    """

    def __init__(
        self,
        plan: Plan,
        step: int,
        end: float,
        accept: Callable[[Plan], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.end, self.accept, self.clock = plan, end, accept, clock
        self.moment = int(_MOMENT * plan.schedule.fall_begins(plan.steps))
        self._mark_step = max(step, self.moment // 2)
        self._mark_time = clock()

    def steps_after(self, step: int) -> int:
        """Return the length of the run, after `step` steps."""
        if step == self._mark_step:
            self._mark_time = self.clock()
        elif step == self.moment and step - self._mark_step >= _LEAST_STEPS:
            self._fix(step)
        return self.plan.steps

    def _fix(self, step: int) -> None:
        now, plan = self.clock(), self.plan
        seconds = (now - self._mark_time) / (step - self._mark_step)
        wanted = step + int((self.end - now) / seconds)
        # The fall begins at a fixed share of the run: a run that is too short would have begun it already.
        least = math.ceil(plan.steps * step / plan.schedule.fall_begins(plan.steps))
        steps = min(max(wanted, least), int(_MOST_MORE * plan.steps))
        if steps == plan.steps:
            return
        factor = steps / plan.steps
        self.plan = replace(
            plan, steps=steps, tokens=steps * plan.tokens_per_step, epochs=round(plan.epochs * factor, 4)
        )
        self.accept(self.plan)
        if abs(factor - 1.0) >= _WORTH_SAYING:
            fit = "fits" if steps == 1 else "fit"
            say(f"a step takes {seconds:.3g} s: {counted(steps, 'step')} {fit} into the time, not {plan.steps:,}")

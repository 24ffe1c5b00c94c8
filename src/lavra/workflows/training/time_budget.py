"""The time budget: the length of a timed run, and of its final evaluation, are set again by their actual speeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from lavra.config.training import TrainConfig
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.planning.plan import Plan
from lavra.training.deadline import Deadline

_MOMENTS = (0.4, 0.85)
"""Shares of the steps before the decay after which the length is set: early, so that a run whose first estimate was far
off may still become much shorter, and late, when its speed is known best. All must be below 1."""

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

    That happens twice. The speed is that of the second half of the steps up to the moment of the decision, validations
    and checkpoints included. A new length keeps that moment within the constant learning rates. Every step before it is
    therefore the same as in a run of the new length, and a checkpoint from there can be resumed with the new plan.

    Args:
        plan: The plan of the run, whose first steps do not depend on its length (`begins_alike`).
        step: The step at which the run is.
        end: When the last step should be done (`time.monotonic`).
        accept: The function that takes the new plan, before a step is taken that depends on it.
        clock: The function that returns the time in seconds.
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
        self._most = int(_MOST_MORE * plan.steps)
        self._shares = list(_MOMENTS)
        self._look_ahead(step)

    def steps_after(self, step: int) -> int:
        """Return the length of the run in steps, after `step` steps are done."""
        if step == self._mark_step:
            self._mark_time = self.clock()
        elif step == self.moment:
            self._fix(step)
            self._look_ahead(step)
        return self.plan.steps

    def _look_ahead(self, step: int) -> None:
        """Choose the next moment before which enough steps can be timed, and start the clock if they begin now."""
        self.moment = self._mark_step = -1
        self._mark_time = self.clock()
        while self._shares:
            moment = int(self._shares.pop(0) * self.plan.schedule.decay_begins(self.plan.steps))
            mark = max(step, moment // 2)
            if moment - mark >= _LEAST_STEPS:
                self.moment, self._mark_step = moment, mark
                return

    def _fix(self, step: int) -> None:
        now, plan = self.clock(), self.plan
        seconds = (now - self._mark_time) / (step - self._mark_step)
        wanted = step + int((self.end - now) / seconds)
        # The decay starts at a fixed share of the run: in a run that is too short it would have started already.
        least = math.ceil(plan.steps * step / plan.schedule.decay_begins(plan.steps))
        steps = min(max(wanted, least), max(self._most, least))
        if steps == plan.steps:
            return
        factor = steps / plan.steps
        self.plan = replace(plan, steps=steps, tokens=steps * plan.batch_tokens, epochs=round(plan.epochs * factor, 4))
        self.accept(self.plan)
        if abs(factor - 1.0) >= _WORTH_SAYING:
            fit = "fits" if steps == 1 else "fit"
            log(f"a step takes {seconds:.3g} s: {counted(steps, 'step')} {fit} into the time, not {plan.steps:,}")


def amount_in_time(
    wanted: int, deadline: Deadline | None, do: Callable[[int], object], *, trial: int, least: int
) -> int:
    """Return how much of some work fits into the time that is left, by the measured speed of a small part of it.

    Args:
        wanted: The amount of work where there is time for all of it, such as tokens to evaluate.
        deadline: When the work should be done; None for no limit.
        do: The function that does an amount of the work. It is called twice, and the first call does not count: it
            also loads code and fills caches.
        trial: The amount that is tried. Nothing is tried where this is half of the work or more.
        least: The smallest amount to return, however slow the machine is.
    """
    if deadline is None or 2 * trial >= wanted:
        return wanted
    do(trial)
    begun = deadline.clock()
    do(trial)
    seconds = (deadline.clock() - begun) / trial
    return min(wanted, max(least, int(max(0.0, deadline.seconds_left) / max(seconds, 1e-9))))

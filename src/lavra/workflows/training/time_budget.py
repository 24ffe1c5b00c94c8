"""The time budget: the length of a timed run, and of its final evaluation, are set again by their actual speeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from lavra.config.training import TrainConfig
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.planning.machine.timed_steps import TimedSteps
from lavra.tasks.datasets import DataSize
from lavra.training.batches import DistributedInfo
from lavra.training.plan import Plan
from lavra.workflows.training.optimization import schedule_of
from lavra.workflows.training.run_length import steps_within, with_length
from lavra.workflows.training.techniques import follow_progress

_MOMENTS = (0.4, 0.85)
"""Shares of the steps before the decay after which the length is set: early, so that a run whose first estimate was far
off may still become much shorter, and late, when its speed is known best. All must be below 1."""

_LEAST_STEPS = 5
"""Fewest steps from which a speed is measured; fewer give no reliable speed."""

_MOST_MORE = 1.5
"""Most by which the number of steps may be multiplied."""

_WORTH_SAYING = 0.02
"""Relative change of the number of steps from which on it is printed; a smaller one is only logged."""


_PROBE_SHARE = 0.08
"""Share of a time budget that the timed steps take."""
_LEAST_PROBE = 2.0
"""Least seconds of the timed steps."""
_LONGEST_PROBE = 20.0
"""Most seconds of the timed steps."""

_LEAST_PLANNED = 16
"""Fewest steps of the plan under which steps are timed that stay part of the run."""

_KEPT_SHARE = 0.15
"""The share where the timed steps stay part of the run: more, because they then cost nothing, and more steps give a
more reliable speed."""
_LONGEST_KEPT = 60.0
"""Most seconds of timed steps that stay part of the run."""


def probe_seconds(plan: Plan, config: TrainConfig, distributed: DistributedInfo) -> tuple[float, bool]:
    """Return how many seconds the first steps of a run are timed, and whether they may stay part of the run.

    Args:
        plan: The plan of the run.
        config: The request.
        distributed: The place of this process among all.
    """
    kept = begins_alike(plan, config) and distributed.world_size == 1
    share, longest = (_KEPT_SHARE, _LONGEST_KEPT) if kept else (_PROBE_SHARE, _LONGEST_PROBE)
    return min(longest, max(_LEAST_PROBE, share * (plan.budget_seconds or 0.0))), kept


def plan_for_timing(plan: Plan, config: TrainConfig) -> Plan:
    """Return the plan under which the first steps of a run are taken and timed, where they may stay part of it.

    A plan that expects fewer steps than are timed would take some of them at the rates of its end, which the run that
    comes of it does not have. It is therefore taken for a longer one.

    Args:
        plan: The plan of the run.
        config: The request.
    """
    if plan.steps >= _LEAST_PLANNED:
        return plan
    schedule = schedule_of(config.optimization, plan.base is not None, _LEAST_PLANNED)
    return replace(plan, steps=_LEAST_PLANNED, schedule=schedule)


def length_by_speed(
    plan: Plan, config: TrainConfig, data: DataSize, timed: TimedSteps, spent: float, *, kept: bool
) -> tuple[Plan, bool]:
    """Return the plan with as many steps as fit into the time budget at the speed of the timed steps.

    Args:
        plan: The plan with a guess of its length.
        config: The request.
        data: How much data there is.
        timed: The timed steps.
        spent: Seconds of the budget that are gone.
        kept: Whether the timed steps may stay part of the run.

    Returns:
        The plan, and whether the timed steps stay: only if a run of the new length starts with the same rates. Where
        there is time for few more steps, these make up the decay, so that none of those taken is lost.
    """
    probe, guess, taken = timed.probe, plan, len(timed.reports)
    per_token = probe.step_seconds / plan.batch_tokens
    left = (plan.budget_seconds or 0.0) - spent
    more = steps_within(left, probe.step_seconds, plan, config, data, per_token, least=0 if kept else 1)
    steps = more + taken if kept else more
    plan = with_length(plan, steps if plan.most_steps is None else min(steps, plan.most_steps), config, data, per_token)
    if kept and not _same_rates(guess, plan, taken):
        share = max(0, plan.steps - taken) / plan.steps
        plan = replace(plan, schedule=replace(guess.schedule, decay_fraction=share))
    if not (kept and _same_rates(guess, plan, taken)):
        plan, kept = with_length(plan, max(1, more), config, data, per_token), False
    figures = {
        "first_step_seconds": probe.first_step_seconds,
        "step_seconds": probe.step_seconds,
        "steps": float(probe.steps),
        "tokens_per_second": probe.tokens_per_second,
    }
    return replace(plan, probe={**plan.probe, **figures}), kept


def _same_rates(guess: Plan, plan: Plan, steps: int) -> bool:
    """Return whether two lengths of a run have the same learning rates in the first steps."""
    return all(
        guess.schedule.factor(step, guess.steps) == plan.schedule.factor(step, plan.steps) for step in range(steps)
    )


def begins_alike(plan: Plan, config: TrainConfig) -> bool:
    """Return whether the first steps of a run do not depend on its length, so that the length may be set while it runs.

    That holds for learning rates that stay constant after the warm-up, for a constant masking rate, and without
    snapshots of the weights or techniques that go by shares of the run.

    Args:
        plan: The plan of the run.
        config: The request.
    """
    wide = plan.schedule.shape in ("constant", "wsd") and config.average.kind != "swa"
    return wide and plan.mask_rate == plan.final_mask_rate and not follow_progress(config.technique)


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
        most = int(_MOST_MORE * plan.steps)
        self._most = most if plan.most_steps is None else min(most, plan.most_steps)
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

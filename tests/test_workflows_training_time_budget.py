"""The length of a timed run, fixed once more by its real speed: simulated runs on a clock of our own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.config.training import AverageConfig, TrainConfig
from lavra.training.optimizers.schedules import Schedule
from lavra.training.plan import Plan
from lavra.workflows.training.time_budget import TimeBudget, begins_alike
from plans import a_plan

STEPS = 1000


def a_timed_plan(shape: str = "wsd") -> Plan:
    schedule = Schedule(shape, 10)  # pyright: ignore[reportArgumentType]
    return replace(a_plan(), steps=STEPS, tokens=STEPS * 4096, epochs=2.0, schedule=schedule)


def simulated(
    plan: Plan, step_seconds: float, *, seconds: float, first: int = 0
) -> tuple[float, TimeBudget, list[int]]:
    """Run to the end with steps of `step_seconds`; return the time it took, the pace, and the steps at new plans."""
    clock, step, new = 0.0, first, []
    time_budget = TimeBudget(plan, first, seconds, lambda _: new.append(step), lambda: clock)
    length = plan.steps
    while step < length:
        step, clock = step + 1, clock + step_seconds
        length = time_budget.steps_after(step)
    return clock, time_budget, new


@given(st.floats(0.95, 1.4), st.integers(0, 300))
def test_a_run_of_another_speed_than_planned_ends_in_time(speed: float, first: int):
    plan = a_timed_plan()
    took, time_budget, new = simulated(plan, 1.0 / speed, seconds=float(STEPS - first), first=first)
    assert took <= STEPS - first + 1e-6
    assert took == pytest.approx(STEPS - first, abs=1.01 / speed) or time_budget.plan == plan
    assert time_budget.plan.tokens == time_budget.plan.steps * plan.batch_tokens
    assert time_budget.plan.epochs == pytest.approx(2.0 * time_budget.plan.steps / STEPS, abs=1e-3)
    assert len(new) <= 1


@given(st.floats(0.2, 4.0), st.sampled_from(["wsd", "constant"]))
def test_what_was_learned_before_the_new_length_is_what_it_would_have_been(speed: float, shape: str):
    plan = a_timed_plan(shape)
    _, time_budget, new = simulated(plan, 1.0 / speed, seconds=float(STEPS))
    after = time_budget.plan
    for moment in new:
        for step in range(moment):
            assert after.schedule.factor(step, after.steps) == plan.schedule.factor(step, plan.steps)
    assert 0.8 * STEPS <= after.steps <= 1.5 * STEPS


def test_a_run_that_begins_after_the_moment_keeps_its_length():
    plan = a_timed_plan()
    _, time_budget, new = simulated(plan, 2.0, seconds=float(STEPS), first=450)
    assert (time_budget.plan, new) == (plan, [])


def test_a_length_is_open_only_where_the_first_steps_do_not_depend_on_it():
    plan, config = a_timed_plan(), TrainConfig()
    assert begins_alike(plan, config)
    assert not begins_alike(a_timed_plan("cosine"), config)
    assert not begins_alike(replace(plan, final_mask_rate=0.5), config)
    assert not begins_alike(plan, replace(config, average=AverageConfig(kind="swa")))

"""The length of a timed run, set again by its actual speed: simulated runs on an injected clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.config.training import AverageConfig, TrainConfig
from lavra.planning.machine.timed_steps import Probe, TimedSteps
from lavra.training.deadline import Deadline, amount_in_time
from lavra.training.optimizers.schedules import Schedule
from lavra.training.plan import Plan
from lavra.workflows.training.run_length import SAMPLES_SHARE, seconds_after, steps_in, with_length
from lavra.workflows.training.time_budget import TimeBudget, begins_alike, length_by_speed
from plans import a_plan

if TYPE_CHECKING:
    from lavra.tasks.datasets import Dataset
    from lavra.training.trainer import StepReport

STEPS = 1000


def a_timed_plan(shape: str = "wsd") -> Plan:
    schedule = Schedule(shape, 10)  # pyright: ignore[reportArgumentType]
    return replace(a_plan(), steps=STEPS, tokens=STEPS * 4096, epochs=2.0, schedule=schedule)


def simulated(
    plan: Plan, step_seconds: float, *, seconds: float, first: int = 0
) -> tuple[float, TimeBudget, list[tuple[int, Plan]]]:
    """Run to the end with steps of `step_seconds`; return the time it took, the budget, and the new plans by step."""
    clock, step, new = 0.0, first, []
    time_budget = TimeBudget(plan, first, seconds, lambda plan: new.append((step, plan)), lambda: clock)
    length = plan.steps
    while step < length:
        step, clock = step + 1, clock + step_seconds
        length = time_budget.steps_after(step)
    return clock, time_budget, new


@given(st.floats(0.7, 1.4), st.integers(0, 100))
def test_a_run_of_another_speed_than_planned_ends_in_time(speed: float, first: int):
    plan = a_timed_plan()
    took, time_budget, new = simulated(plan, 1.0 / speed, seconds=float(STEPS - first), first=first)
    assert took <= STEPS - first + 1e-6
    assert took == pytest.approx(STEPS - first, abs=1.01 / speed)
    assert time_budget.plan.tokens == time_budget.plan.steps * plan.batch_tokens
    assert time_budget.plan.epochs == pytest.approx(2.0 * time_budget.plan.steps / STEPS, abs=1e-3)
    assert len(new) <= 2


@given(st.floats(0.2, 4.0), st.sampled_from(["wsd", "constant"]))
def test_what_was_learned_before_the_new_length_is_what_it_would_have_been(speed: float, shape: str):
    before = a_timed_plan(shape)
    *_, plans = simulated(before, 1.0 / speed, seconds=float(STEPS))
    for moment, after in plans:
        for step in range(moment):
            assert after.schedule.factor(step, after.steps) == before.schedule.factor(step, before.steps)
        before = after
    assert 0.4 * STEPS <= before.steps <= 1.5 * STEPS


def test_a_run_that_begins_after_the_moment_keeps_its_length():
    plan = a_timed_plan()
    _, time_budget, new = simulated(plan, 2.0, seconds=float(STEPS), first=450)
    assert (time_budget.plan, new) == (plan, [])


class FakeData:
    """Data of a given size, as far as the length of a run depends on it."""

    def validation_rows(self, plan: Plan) -> int:
        return 5000

    def epoch_tokens(self, plan: Plan) -> float:
        return 1e9


@dataclass
class FakeMachine:
    """A machine on which a whole run takes place, on its own clock.

    Attributes:
        step_seconds: Of a step, as the timed steps measure it.
        slower: Time of a later step relative to that.
        evaluation: Time of the final evaluation relative to what the plan expects.
        generation: Seconds of one token of the samples.
        compiling: Seconds of the first step and of the first validation, beyond the usual.
    """

    step_seconds: float
    slower: float = 1.0
    evaluation: float = 1.0
    generation: float = 0.01
    compiling: float = 0.0
    now: float = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds

    def run(self, budget: float) -> float:
        """Return the seconds that a run with this budget takes."""
        config, data = TrainConfig(), cast("Dataset", FakeData())
        plan = replace(a_timed_plan(), budget_seconds=budget, steps=max(1, round(budget / self.step_seconds)))
        per_token = self.step_seconds / plan.batch_tokens
        taken = max(4, round(0.15 * budget / self.step_seconds))
        self.work(self.compiling + taken * self.step_seconds)
        plan = with_length(plan, plan.steps, config, data, per_token)
        more = steps_in(budget - self.now, self.step_seconds, plan, per_token)
        plan = with_length(plan, more + taken, config, data, per_token)
        end = budget - seconds_after(plan, per_token)
        time_budget = TimeBudget(plan, taken, end, lambda _: None, lambda: self.now)
        step, length, token = taken, plan.steps, per_token * self.slower
        while step < length:
            step += 1
            self.work(self.step_seconds * self.slower)
            length = time_budget.steps_after(step)
            if step % plan.validate_every == 0:
                self.work(plan.validation_rows * plan.context * 0.35 * token)
        self.finish(plan, budget, 0.7 * 1.4 * token * self.evaluation)
        return self.now

    def finish(self, plan: Plan, budget: float, seconds_per_token: float) -> None:
        """Evaluate and generate, as the end of a run does it."""
        self.work(1.0)
        before_samples = Deadline(budget * (1.0 - SAMPLES_SHARE), lambda: self.now)
        tokens = amount_in_time(
            plan.evaluation_tokens,
            before_samples,
            lambda amount: self.work(amount * seconds_per_token),
            trial=max(1024, plan.evaluation_tokens // 32),
            least=4096,
        )
        self.work(tokens * seconds_per_token)
        deadline = Deadline(budget, lambda: self.now)
        tokens = amount_in_time(120, deadline, lambda amount: self.work(amount * self.generation), trial=4, least=16)
        self.work(tokens * self.generation)


@given(
    budget=st.floats(60, 7200),
    steps=st.integers(200, 5000),
    slower=st.floats(0.8, 1.33),
    evaluation=st.floats(0.3, 4.0),
    generation=st.floats(0.001, 0.06),
    compiling=st.floats(0.0, 0.4),
)
def test_a_budget_is_kept_within_a_tenth(
    budget: float, steps: int, slower: float, evaluation: float, generation: float, compiling: float
):
    """On a machine a quarter faster or slower than its timed steps, whatever evaluation and compiling take."""
    machine = FakeMachine(budget / steps, slower, evaluation, generation, compiling * budget)
    assert 0.9 * budget <= machine.run(budget) <= 1.1 * budget


def test_where_time_is_short_the_steps_that_were_timed_are_not_lost():
    """Six steps are taken when the compiler has used up the time: what is left decays, and all of it is one run."""
    guess = replace(a_timed_plan(), budget_seconds=100.0, most_steps=None)
    report = cast("StepReport", None)
    timed = TimedSteps(Probe(5.0, 5.0, 5, guess.batch_tokens / 5.0), (report,) * 6, lambda: None)
    data = cast("Dataset", FakeData())
    for spent, more in ((99.0, False), (60.0, True)):
        plan, kept = length_by_speed(guess, TrainConfig(), data, timed, spent, kept=True)
        assert kept
        assert plan.steps >= 6
        assert (plan.steps > 6) == more
        rates = [plan.schedule.factor(step, plan.steps) for step in range(plan.steps)]
        assert rates[:6] == [guess.schedule.factor(step, guess.steps) for step in range(6)]
        assert rates[6:] == sorted(rates[6:], reverse=True)
    assert not length_by_speed(guess, TrainConfig(), data, timed, 70.0, kept=False)[1]


def test_without_a_limit_the_whole_work_is_done():
    assert amount_in_time(1000, None, lambda _: pytest.fail("nothing is tried"), trial=10, least=1) == 1000


def test_work_that_is_slower_than_expected_is_cut_to_the_time_that_is_left():
    machine = FakeMachine(1.0)
    deadline = Deadline(100.0, lambda: machine.now)
    assert amount_in_time(1000, deadline, lambda amount: machine.work(amount), trial=10, least=1) == 80
    machine.now = 0.0
    assert amount_in_time(1000, deadline, lambda amount: machine.work(amount / 20), trial=10, least=1) == 1000
    machine.now = 200.0
    assert amount_in_time(1000, deadline, lambda amount: machine.work(amount), trial=10, least=16) == 16


def test_what_comes_after_the_steps_is_reckoned():
    """A larger model takes longer to write, and a compiled one is evaluated without its compiled code."""
    plan = replace(a_timed_plan(), compile=False, budget_seconds=None)
    after = seconds_after(plan, 1e-4)
    assert seconds_after(replace(plan, parameters=10**9), 1e-4) > after + 20
    assert seconds_after(replace(plan, compile=True), 1e-4) > after
    assert seconds_after(replace(plan, budget_seconds=60.0, parameters=1), 1.0) <= 60.0 * 0.08 + 1.0


def test_a_few_steps_of_a_large_model_are_not_followed_by_an_hour_of_evaluation():
    plan = replace(a_timed_plan(), budget_seconds=None)
    data = cast("Dataset", FakeData())
    few, many = (with_length(plan, steps, TrainConfig(), data, 5e-3) for steps in (1, 1000))
    every = data.validation_rows(plan) * plan.context
    assert seconds_after(few, 5e-3) < 180
    assert few.evaluation_tokens < many.evaluation_tokens <= every
    assert with_length(plan, 1, TrainConfig(), data, 1e-6).evaluation_tokens == every


def test_a_length_is_open_only_where_the_first_steps_do_not_depend_on_it():
    plan, config = a_timed_plan(), TrainConfig()
    assert begins_alike(plan, config)
    assert not begins_alike(a_timed_plan("cosine"), config)
    assert not begins_alike(replace(plan, final_mask_rate=0.5), config)
    assert not begins_alike(plan, replace(config, average=AverageConfig(kind="swa")))

"""The learning rate at known points of every shape."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.config.choices import Shape
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from tiny_training import run, tiny_trainer

SHAPES = get_args(Shape)
schedules = st.builds(
    Schedule,
    shape=st.sampled_from(SHAPES),
    warmup_steps=st.integers(0, 30),
    decay_fraction=st.floats(0.0, 1.0),
    min_lr_ratio=st.floats(0.0, 1.0),
)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", {0: 0.1, 4: 0.5, 9: 1.0, 50: 1.0, 99: 1.0}),
        ("linear", {0: 0.1, 9: 1.0, 10: 1.0, 55: 1 - 0.9 * 0.5, 100: 0.1}),
        ("cosine", {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.1 + 0.9 * 0.5, 100: 0.1}),
        ("wsd", {0: 0.1, 9: 1.0, 60: 1.0, 80: 1 - 0.9 * 0.5, 100: 0.1}),
    ],
)
def test_values_at_known_points(shape: Shape, expected: dict[int, float]):
    schedule = Schedule(shape, warmup_steps=10, decay_fraction=0.4, min_lr_ratio=0.1)
    for step, factor in expected.items():
        assert schedule.factor(step, 100) == pytest.approx(factor)


@given(schedule=schedules, steps=st.integers(1, 200))
def test_it_grows_then_falls_and_stays_within_its_bounds(schedule: Schedule, steps: int):
    factors = [schedule.factor(step, steps) for step in range(steps)]
    assert all(0.0 < factor <= 1.0 for factor in factors) or schedule.min_lr_ratio == 0.0
    after = factors[schedule.warmup_steps :]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))
    assert all(factor >= min(schedule.min_lr_ratio, 1.0) - 1e-12 for factor in after)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_a_run_of_one_step_learns(shape: Shape, warmup: int):
    assert 0.0 < Schedule(shape, warmup).factor(0, 1) <= 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_without_warmup_the_first_step_is_at_the_peak(shape: Shape):
    assert Schedule(shape, warmup_steps=0).factor(0, 100) == 1.0


def test_the_fall_reaches_the_floor_but_for_one_step():
    for shape in ("linear", "wsd", "cosine"):
        last = Schedule(shape, 10, 0.5, 0.0).factor(999, 1000)
        assert 0.0 < last < 0.003


def test_a_trainer_follows_its_schedule():
    schedule = Schedule("linear", warmup_steps=2, min_lr_ratio=0.0)
    trainer = tiny_trainer(schedule=schedule, optimizer=OptimizerOptions(learning_rate=0.01), steps=5)
    assert [report.learning_rate for report in run(trainer)] == [0.01 * schedule.factor(step, 5) for step in range(5)]
    matrices, rest = trainer.optimizers.optimizers
    assert matrices.param_groups[0]["lr"] == pytest.approx(0.02 * schedule.factor(4, 5))
    assert {group["lr"] for group in rest.param_groups} == {0.01 * schedule.factor(4, 5)}

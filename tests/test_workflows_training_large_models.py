"""What a run of few and slow steps spends beside them: timing, validations, checkpoints, and the memory of all that."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.config.training import OptimizationConfig, TrainConfig
from lavra.config.transforms import AdapterConfig, TransformConfig
from lavra.planning.machine import timed_steps
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.workflows.training import forecast
from lavra.workflows.training.optimization import schedule_of
from lavra.workflows.training.run_length import steps_between_checkpoints, validations_of
from lavra.workflows.training.time_budget import begins_alike
from plans import a_plan
from test_workflows_any_model import folder_of
from tiny_training import tiny_trainer


@given(st.floats(1.0, 1e7))
def test_validations_take_a_small_share_of_any_run(sequences: float):
    times, rows = validations_of(sequences)
    assert 1 <= times <= 8
    assert rows >= (8 if times > 1 else 4)
    # A validation is a forward pass, which takes some 0.35 of a step; a run of a few sequences still has one of four.
    assert 0.35 * times * rows <= max(0.021 * sequences + 4, 0.35 * 4)


def test_large_models_save_seldom_and_small_ones_and_adapters_as_often_as_asked():
    every = steps_between_checkpoints(135_000_000, TransformConfig(), step_seconds=2048 / 320)
    assert 10 <= every <= 15  # four seconds of writing for some eighty of training
    assert steps_between_checkpoints(135_000_000, TransformConfig(adapter=AdapterConfig(kind="lora")), 6.4) == 1
    assert steps_between_checkpoints(1_000_000, TransformConfig(), 2048 / 20_000) <= 6


@pytest.mark.parametrize(("guess", "steps"), [(30, 26), (30, 38), (90, 100), (12, 15)])
def test_the_first_steps_of_an_adaptation_are_those_of_a_run_of_another_length(guess: int, steps: int):
    one, other = (schedule_of(OptimizationConfig(), adapting=True, steps=length) for length in (guess, steps))
    assert [one.factor(step, guess) for step in range(5)] == [other.factor(step, steps) for step in range(5)]
    assert begins_alike(replace(a_plan(), schedule=one), TrainConfig())


def test_few_steps_are_timed_where_each_takes_long(monkeypatch: pytest.MonkeyPatch):
    for seconds_of_a_step, steps in ((0.001, 1 + 3), (2.0, 1 + 2), (5.0, 1 + 1)):
        clock = itertools.count(0.0, seconds_of_a_step)
        monkeypatch.setattr(timed_steps.time, "perf_counter", lambda clock=clock: next(clock))
        assert len(timed_steps.time_steps(tiny_trainer(), seconds=0.0, least=3).reports) == steps


def test_the_memory_of_a_run_counts_the_copy_that_a_checkpoint_is_written_from(tmp_path: Path):
    folder_of("PhiForCausalLM", tmp_path / forecast.BASE, hidden_size=64, intermediate_size=128)
    plan = replace(a_plan(), model=None, context=32, micro_batch_size=1, precision="fp32")
    plan = replace(plan, optimizer=OptimizerOptions(name="adamw"))
    shape = forecast._shape_to_dry_run(plan, tmp_path)
    assert shape == tmp_path / forecast.BASE
    assert forecast._shape_to_dry_run(plan, None) is None
    assert forecast._shape_to_dry_run(a_plan(), None) == a_plan().model
    found = forecast._expected_memory(plan, shape, perturbs=False)
    step = forecast.estimate_memory(forecast.DryRun(shape, 32, "fp32", plan.optimizer, micro_batches=2), 1)
    assert found == pytest.approx(step.process + forecast._LIBRARIES + step.weights + step.optimizer, rel=1e-6)
    assert step.optimizer >= 2 * step.weights * 0.99

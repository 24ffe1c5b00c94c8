"""A model of which not one step fits into a budget is refused before anything is trained, with what would fit."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.core.units import parse_duration
from lavra.models.presets import PRESETS
from lavra.planning.machine.flops import training_flops_per_token
from lavra.workflows.training.one_step import refuse_too_large, refuse_without_time


def test_a_step_that_may_fit_is_not_refused() -> None:
    for step_seconds in (0.001, 30.0, 119.0):
        refuse_too_large(step_seconds, 60.0, 60.0, 256, 1e11)


def test_a_step_that_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(InputError, match="takes about 5 min 00 s here, longer than the budget of 1 min 00 s") as caught:
        refuse_too_large(300.0, 60.0, 60.0, 512, 1e11)
    remedy = caught.value.remedy
    assert "--budget 100m" in remedy
    assert "--optimization.batch-tokens 512" in remedy
    named = re.search(r"--model ([\w.-]+)", remedy)
    assert named is not None
    spec = PRESETS[named[1]]
    assert 20 * training_flops_per_token(spec) * max(2048, spec.context) / 1e11 <= 60.0
    with pytest.raises(InputError, match="which leaves 30 s for training"):
        refuse_too_large(300.0, 30.0, 60.0, 512, 1.0)


def test_a_budget_that_opening_and_proving_a_base_model_uses_up_is_refused_with_one_that_fits():
    few = {"step_seconds": 9.0, "context_seconds": 2.2, "parameters": 135_000_000}
    refuse_without_time(**few, spent=21.0, budget=60.0)
    with pytest.raises(InputError, match="longer than the budget of 30 s") as raised:
        refuse_without_time(**few, spent=21.0, budget=30.0)
    assert "--budget 150s" in (raised.value.remedy or "")
    refuse_without_time(0.01, 0.002, 1_000_000, spent=6.0, budget=15.0)


@given(st.floats(0.01, 60.0), st.floats(0.0, 100.0), st.floats(10.0, 600.0))
def test_the_budget_that_is_advised_is_not_refused(step_seconds: float, spent: float, budget: float):
    few = {"step_seconds": step_seconds, "context_seconds": step_seconds / 4, "parameters": 135_000_000}
    try:
        refuse_without_time(**few, spent=spent, budget=budget)
    except InputError as error:
        advised = re.search(r"--budget (\S+) for", error.remedy or "")
        assert advised
        refuse_without_time(**few, spent=spent, budget=parse_duration(advised[1]))

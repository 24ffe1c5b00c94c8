"""A model of which not one step fits into a budget is refused before anything is trained, with what would fit."""

from __future__ import annotations

import re

import pytest

from lavra.core.errors import InputError
from lavra.models.spec import PRESETS
from lavra.planning.machine.flops import training_flops_per_token
from lavra.workflows.training.one_step import refuse_too_large


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

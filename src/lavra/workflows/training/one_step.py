"""A model of which not one step fits into the time budget is refused, with what would fit."""

from __future__ import annotations

import math

from lavra.core.errors import InputError
from lavra.core.units import show_duration
from lavra.models.presets import PRESETS
from lavra.planning.machine.flops import training_flops_per_token
from lavra.workflows.training.run_length import BYTES_WRITTEN, STATE_BYTES, WRITING_SPEED

_DOUBT = 2.0
"""Factor by which a step may be faster than expected before it is timed: compiled, or on a machine that was busy when
its matrix products were measured."""

_STEPS = 20
"""Number of steps that a budget should have room for, for the model and the budget that are recommended."""

_CHECK_SECONDS = 3.0
"""Seconds of the short checks."""

_MEASURED = 6.0
"""Forward passes of one sequence, in seconds of a step of one, in the validations before and after and at the end."""

_TOO_MUCH = 1.25
"""Factor on the budget from which on a run is refused, since all of these are estimates."""

_FEW_STEPS = 10

_USUAL_TOKENS = 2048
"""Tokens of the smallest step that a plan chooses."""


def refuse_too_large(step_seconds: float, seconds: float, budget: float, context: int, flops_per_second: float) -> None:
    """Raise an error if not one step of a model fits into the time that a budget leaves for training.

    Args:
        step_seconds: Expected seconds of a step.
        seconds: Seconds that the budget leaves for training.
        budget: The time budget in seconds.
        context: Tokens of a sequence, which are the fewest of a step.
        flops_per_second: FLOP/s that training is expected to reach.

    Raises:
        InputError: If a step takes longer, even twice as fast as expected.
    """
    if step_seconds <= _DOUBT * seconds:
        return
    left = f", which leaves {show_duration(seconds)} for training" if seconds < budget else ""
    raise InputError(
        f"a step of this model takes about {show_duration(step_seconds)} here, longer than the budget of "
        f"{show_duration(budget)}{left}",
        f"give at least --budget {_STEPS * step_seconds / 60:.0f}m; {_smaller(seconds, flops_per_second)}; or fewer "
        f"tokens in a step (--optimization.batch-tokens {context})",
    )


def refuse_without_time(
    step_seconds: float, context_seconds: float, parameters: int, spent: float, budget: float
) -> None:
    """Raise an error if what a base model is checked, measured and written with leaves no time for a step.

    Args:
        step_seconds: Expected seconds of a step.
        context_seconds: Expected seconds of a step of one sequence, from which those of validations follow.
        parameters: Number of parameters of the model.
        spent: Seconds of the budget that are gone, for opening and proving the model and for preparing the text.
        budget: The time budget in seconds.

    Raises:
        InputError: If all that takes a quarter more than the budget, even with a step twice as fast as expected.
    """
    besides = _CHECK_SECONDS + _MEASURED * context_seconds + (STATE_BYTES + BYTES_WRITTEN) * parameters / WRITING_SPEED
    least = spent + besides + step_seconds / _DOUBT
    if least <= _TOO_MUCH * budget:
        return
    enough = math.ceil((spent + besides + _FEW_STEPS * step_seconds) / 30.0) * 30.0
    raise InputError(
        f"one step of this model takes about {show_duration(least)} here, with opening, reading, proving and writing, "
        f"longer than the budget of {show_duration(budget)}",
        f"give at least --budget {enough:.0f}s for some {_FEW_STEPS} steps; or take a "
        "smaller model; or prepare the text beforehand with lavra prepare",
    )


def _smaller(seconds: float, flops_per_second: float) -> str:
    """Return the largest preset of which enough steps fit into a time, in words."""
    costs = {
        name: training_flops_per_token(spec) * max(_USUAL_TOKENS, spec.context) / flops_per_second
        for name, spec in PRESETS.items()
    }
    fitting = [name for name in costs if _STEPS * costs[name] <= seconds]
    model = f" (--model {max(fitting, key=costs.__getitem__)})" if fitting else ""
    return f"or take a smaller model{model}"

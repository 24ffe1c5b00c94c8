"""A model of which not one step fits into the time budget is refused, with what would fit."""

from __future__ import annotations

from lavra.core.errors import InputError
from lavra.core.units import show_duration
from lavra.models.spec import PRESETS
from lavra.planning.machine.flops import training_flops_per_token

_DOUBT = 2.0
"""Factor by which a step may be faster than expected before it is timed: compiled, or on a machine that was busy when
its matrix products were measured."""

_STEPS = 20
"""Number of steps that a budget should have room for, for the model and the budget that are recommended."""

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


def _smaller(seconds: float, flops_per_second: float) -> str:
    """Return the largest preset of which enough steps fit into a time, in words."""
    costs = {
        name: training_flops_per_token(spec) * max(_USUAL_TOKENS, spec.context) / flops_per_second
        for name, spec in PRESETS.items()
    }
    fitting = [name for name in costs if _STEPS * costs[name] <= seconds]
    model = f" (--model {max(fitting, key=costs.__getitem__)})" if fitting else ""
    return f"or take a smaller model{model}"

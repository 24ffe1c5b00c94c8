"""How fast to learn: the request's values, and defaults that depend on where the training begins."""

from __future__ import annotations

from lavra.recipes.config import OptimizationConfig
from lavra.training.optimizers import OptimizerOptions
from lavra.training.schedules import Schedule

_FROM_NOTHING, _ADAPTING, _ADAPTER = 3e-3, 1e-4, 5e-4
_WARMUP_STEPS, _WARMUP_SHARE = 10, 0.05


def optimizer_options(asked: OptimizationConfig, adapting: bool, adapter: bool = False) -> OptimizerOptions:
    """Return the optimiser: Muon at full rates from nothing, AdamW at gentle rates for a model that knows something.

    Args:
        asked: what was given; None means the default.
        adapting: whether training begins from a trained model.
        adapter: whether only a small addition to it learns.
    """
    rate = asked.learning_rate
    if rate is None:
        rate = _ADAPTER if adapter else _ADAPTING if adapting else _FROM_NOTHING
    return OptimizerOptions(
        name=asked.name or ("adamw" if adapting else "muon"),
        learning_rate=rate,
        matrix_learning_rate=asked.matrix_learning_rate,
        weight_decay=asked.weight_decay,
        matrix_weight_decay=asked.matrix_weight_decay,
        layer_decay=asked.layer_decay,
    )


def schedule_of(asked: OptimizationConfig, adapting: bool, steps: int) -> Schedule:
    """Return the schedule of a run of `steps` steps; the warm-up takes at most a tenth of them."""
    warmup = asked.warmup_steps
    if warmup is None:
        warmup = round(_WARMUP_SHARE * steps) if adapting else _WARMUP_STEPS
    shape = asked.schedule or ("linear" if adapting else "wsd")
    return Schedule(shape, min(warmup, max(1, steps // 10)), asked.cooldown, asked.floor)

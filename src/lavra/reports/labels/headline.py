"""Which of the figures of a result are metrics of labels, and which comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def figures_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of labels among the values of a result, or of a baseline: each estimate that is no likelihood.

    Args:
        values: Values of `result.json`, or of one of its baselines.

    Examples:
        >>> figures_of({"accuracy": {"value": 0.9, "low": None, "high": None}, "rows": 20, "loss": {"value": 1.0}})
        {'accuracy': {'value': 0.9, 'low': None, 'high': None}}
    """
    return {
        name: value
        for name, value in values.items()
        if name not in _LIKELIHOOD and isinstance(value, Mapping) and "value" in value and set(value) <= _ESTIMATE
    }


_LIKELIHOOD = ("loss", "perplexity", "bits_per_byte", "bits_per_character", "bits_per_word")
_ESTIMATE = {"value", "low", "high"}


def headline_of(values: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the name and the estimate of the first metric of labels in a result; None where it has none.

    Args:
        values: Values of `result.json`.

    Examples:
        >>> headline_of({"step": 3, "accuracy": {"value": 0.9, "low": 0.8, "high": 1.0}})[0]
        'accuracy'
    """
    return None if "bits_per_byte" in values else next(iter(figures_of(values).items()), None)

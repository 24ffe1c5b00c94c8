"""Metrics of predictions by the names of scikit-learn, each with its bootstrap interval over rows.

A metric of a table in which an id occurs with several seeds resamples ids, because the rows of one id are no
independent evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.intervals import Estimate, interval
from lavra.evaluation.labels.metric_formulas import statistics_of
from lavra.evaluation.labels.predictions import Kind, Predictions
from lavra.evaluation.labels.statistics import Statistic

METRICS: dict[Kind, tuple[str, ...]] = {
    "classes": (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "micro_f1",
        "matthews_correlation",
        "log_loss",
        "brier",
        "calibration_error",
    ),
    "labels": ("micro_f1", "macro_f1", "samples_f1", "subset_accuracy", "log_loss", "brier", "calibration_error"),
    "values": ("mean_squared_error", "mean_absolute_error", "pearson", "spearman"),
    "ordinal": ("quadratic_kappa", "mean_absolute_error", "accuracy", "log_loss"),
}
"""Names of the metrics of each kind of predictions. What each one counts is said in `metric_formulas`."""

SMALLER_IS_BETTER = frozenset({"log_loss", "brier", "calibration_error", "mean_squared_error", "mean_absolute_error"})
"""Metrics that measure an error; of all others, more is better."""

_BIASED = "calibration_error"  # it cannot be negative, so that noise only raises it, and in a resample once more


@dataclass(frozen=True)
class Scores:
    """The metrics of a table of predictions.

    Attributes:
        metrics: Each metric by its name, with a 95 % interval.
        rows: Number of rows that were measured.
        unknown: Number of rows that were left out because their target is unknown.
    """

    metrics: dict[str, Estimate]
    rows: int
    unknown: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the metrics, `rows` and `rows_without_label`."""
        metrics = {name: estimate.to_json() for name, estimate in self.metrics.items()}
        return {**metrics, "rows": self.rows, "rows_without_label": self.unknown}


def scores(
    table: Predictions,
    decisions: NDArray[Any] | None = None,
    *,
    names: tuple[str, ...] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Scores:
    """Measure predictions.

    Args:
        table: The predictions. Rows of which nothing is known are left out, and counted.
        decisions: What is decided for each row of the table, in the form of `Predictions.decisions`, such as by
            thresholds of each label; None decides by that function. Metrics of probabilities do not depend on it.
        names: Metrics that are wanted, of those in `METRICS`; None for all.
        draws: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If no row has a known target, a metric is unknown, or all weights are zero.

    Examples:
        >>> table = Predictions("abcd", [[1, 0], [0, 1], [0, 1], [1, 0]], [[0.9, 0.1]] * 4, ["no", "yes"])
        >>> scores(table).metrics["accuracy"].value
        0.5
    """
    statistics = known_statistics(table, decisions, names or METRICS[table.kind])
    found: dict[str, Estimate] = {}
    for statistic in statistics:
        values = statistic.values()
        resampled = statistic.resampled(draws=draws, seed=seed)
        found |= {name: estimate(name, value, resampled[name], statistic.units) for name, value in values.items()}
    ordered = {name: found[name] for name in METRICS[table.kind] if name in found}
    return Scores(ordered, int(table.known.sum()), int((~table.known).sum()))


def metric_value(table: Predictions, name: str, decisions: NDArray[Any] | None = None) -> float:
    """Return one metric without its interval.

    Args:
        table: The predictions.
        name: Name of the metric, one of `METRICS`.
        decisions: See `scores`.

    Raises:
        InputError: If no row has a known target, the metric is unknown, or all weights are zero.
    """
    return known_statistics(table, decisions, (name,))[0].values()[name]


def gain(name: str, before: float, after: float) -> float:
    """Return by how much a metric became better: positive is better, whichever way the metric points."""
    return before - after if name in SMALLER_IS_BETTER else after - before


def known_statistics(table: Predictions, decisions: NDArray[Any] | None, names: tuple[str, ...]) -> list[Statistic]:
    """Return the statistics of the rows whose target is known, which are resampled or exchanged by id.

    Args:
        table: The predictions.
        decisions: See `scores`.
        names: Names of the metrics.

    Raises:
        InputError: If no row has a known target, a metric is unknown, or all weights are zero.
    """
    unknown = [name for name in names if name not in METRICS[table.kind]]
    if unknown:
        raise InputError(
            f"{unknown[0]!r} is no metric of {table.kind}", f"choose among {', '.join(METRICS[table.kind])}"
        )
    known = table.known
    decided = table.decisions() if decisions is None else np.asarray(decisions)
    if len(decided) != len(table):
        raise InputError(f"{len(decided)} decisions were made for {len(table)} rows", "decide on every row")
    if not known.any():
        raise InputError(f"none of the {len(table)} rows has a label, so that nothing can be measured", "add labels")
    if not table.weights[known].sum() > 0:
        raise InputError("the weights of all rows with a label are zero", "give some rows a weight above zero")
    return statistics_of(table.select(known), decided[known], names)


def estimate(name: str, value: float, resampled: NDArray[np.float64], units: int) -> Estimate:
    """Return a metric with the interval of its resamples.

    The calibration error cannot be negative, so that the noise of few rows raises it, and that of a resample raises it
    a second time. The mean excess of the resamples is taken off its interval.
    """
    finite = resampled[np.isfinite(resampled)]
    if not len(finite) or not math.isfinite(value):
        return Estimate(value)
    if name == _BIASED:
        finite = np.maximum(0.0, finite - (finite.mean() - value))
    return Estimate(value, *interval(finite, units))

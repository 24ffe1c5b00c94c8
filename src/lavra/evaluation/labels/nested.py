"""What a calibration, thresholds or an ensemble gain, measured on rows that did not choose them.

A setting that is fitted to rows looks better on these rows than on any others. So the rows are divided into parts, the
setting of each part is fitted to the other parts, and all rows are measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.core.seeds import numpy_stream
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.calibration import fit_calibration
from lavra.evaluation.labels.comparison import PairedComparison, compare
from lavra.evaluation.labels.ensembles import combine, fit_weights
from lavra.evaluation.labels.joining import aligned
from lavra.evaluation.labels.metrics import SMALLER_IS_BETTER, metric_value
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.thresholds import Goal, fit_thresholds

Outcome = tuple[Predictions, NDArray[Any]]
"""Predictions and the decisions that are taken on them."""

Setting = Callable[[Sequence[Predictions]], Outcome]
"""Applies what was fitted to the tables of all members."""

Fit = Callable[[Sequence[Predictions]], Setting]
"""Fits something to the tables of all members, which hold the same rows in the same order."""


@dataclass(frozen=True)
class Gain:
    """What a setting brings on rows that did not choose it.

    Attributes:
        comparison: The metric before (`first`) and with the setting (`second`), with the interval of the difference.
        optimistic: The metric with the setting where it is fitted to and measured on the same rows, to show by how much
            that flatters.
    """

    comparison: PairedComparison
    optimistic: float

    @property
    def difference(self) -> Estimate:
        """The metric with the setting, minus the one before."""
        return self.comparison.difference

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values, with `optimistic`."""
        return {**self.comparison.to_json(), "optimistic": self.optimistic}


def halves(table: Predictions, *, parts: int = 2, seed: int = 0) -> NDArray[np.int64]:
    """Return the part of each row, (n,), 0 to `parts - 1`.

    Where the table has enough folds, whole folds go to the parts, so that what was kept together in a fold (one author,
    near duplicates) stays together. Otherwise the ids are divided at random. The rows of one id share a part.

    Args:
        table: The table.
        parts: Number of parts.
        seed: Seed of the division.

    Raises:
        InputError: If there are fewer ids than parts.
    """
    folds = np.unique(table.folds)
    names: Sequence[Any] = table.ids
    by_fold = len(folds) >= parts and folds[0] >= 0 and _one_fold_for_each_id(table)
    if by_fold:
        names = table.folds.tolist()
    unique = sorted(set(names))
    if len(unique) < parts:
        raise InputError(f"{len(unique)} rows cannot be divided into {parts} parts", "give more rows")
    order = numpy_stream(seed, "nested").permutation(len(unique)).tolist()
    part = {unique[place]: number % parts for number, place in enumerate(order)}
    return np.array([part[name] for name in names], dtype=np.int64)


def _one_fold_for_each_id(table: Predictions) -> bool:
    return len(set(zip(table.ids, table.folds.tolist(), strict=True))) == len(set(table.ids))


def cross_fitted(members: Sequence[Predictions], fit: Fit, *, parts: int = 2, seed: int = 0) -> Outcome:
    """Return what a setting makes of each row, fitted to the parts in which the row does not lie.

    Args:
        members: Predictions of each model on the same rows.
        fit: What is fitted.
        parts: Number of parts; with two, each setting sees half of the rows.
        seed: Seed of the division.
    """
    members = aligned(members)
    part = halves(members[0], parts=parts, seed=seed)
    probabilities = members[0].probabilities.copy()
    decisions = members[0].decisions().copy()
    for number in range(parts):
        inside = part == number
        setting = fit([member.select(~inside) for member in members])
        table, decided = setting([member.select(inside) for member in members])
        probabilities[inside], decisions[inside] = table.probabilities, decided
    return members[0].with_probabilities(probabilities), decisions


def nested_gain(
    members: Sequence[Predictions],
    fit: Fit,
    metric: str,
    *,
    before: Fit | None = None,
    parts: int = 2,
    seed: int = 0,
    draws: int = 2000,
) -> Gain:
    """Return what a setting gains on one metric; every row is measured with a setting that did not see it.

    Args:
        members: Predictions of each model on the same rows.
        fit: What is fitted, such as `calibrating`, `thresholding(...)` or `ensembling`.
        metric: Name of the metric.
        before: What it is compared with, fitted in the same way; None for the best single member by the metric.
        parts: Number of parts.
        seed: Seed of the division, of the bootstrap and of the test.
        draws: Number of bootstrap resamples.

    Raises:
        InputError: If the tables do not fit each other, or the metric or setting does not fit them.
    """
    old, old_decisions = cross_fitted(members, before or best_member(metric), parts=parts, seed=seed)
    new, new_decisions = cross_fitted(members, fit, parts=parts, seed=seed)
    all_at_once, decided = fit(aligned(members))(aligned(members))
    return Gain(
        compare(
            old, new, metric, first_decisions=old_decisions, second_decisions=new_decisions, seed=seed, draws=draws
        ),
        metric_value(all_at_once, metric, decided),
    )


def calibrating(members: Sequence[Predictions]) -> Setting:
    """Fit a calibration to one table; see `fit_calibration`. Decisions stay what they were."""
    fitted = fit_calibration(members[0])

    def setting(tables: Sequence[Predictions]) -> Outcome:
        return fitted.apply(tables[0]), tables[0].decisions()

    return setting


def thresholding(goal: Goal | None = None) -> Fit:
    """Return what fits thresholds to one table; see `fit_thresholds`."""

    def fit(members: Sequence[Predictions]) -> Setting:
        fitted = fit_thresholds(members[0], goal)
        return lambda tables: (tables[0], fitted.decide(tables[0]))

    return fit


def ensembling(members: Sequence[Predictions]) -> Setting:
    """Fit the weights of an ensemble; see `fit_weights`."""
    weights = fit_weights(members)

    def setting(tables: Sequence[Predictions]) -> Outcome:
        table = combine(tables, weights)
        return table, table.decisions()

    return setting


def best_member(metric: str) -> Fit:
    """Return what chooses the member that is best by a metric; of equal ones, the first."""

    def fit(members: Sequence[Predictions]) -> Setting:
        sign = 1 if metric in SMALLER_IS_BETTER else -1
        values = [sign * metric_value(member, metric) for member in members] if len(members) > 1 else [0.0]
        chosen = int(np.argmin(values))
        return lambda tables: (tables[chosen], tables[chosen].decisions())

    return fit

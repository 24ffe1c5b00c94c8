"""Baselines of labels: what a model that reads no text predicts, as tables like those of any model."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.errors import InputError
from lavra.evaluation.labels.predictions import NO_FOLD, Kind, Predictions

Centre = Literal["mean", "median"]
"""The constant that predicts values: the mean has the smallest squared error, the median the smallest absolute one."""


def majority(
    table: Predictions, targets: ArrayLike, weights: ArrayLike | None = None, *, centre: Centre = "mean"
) -> Predictions:
    """Return the table with the same prediction for every row: the frequencies of the classes in the training rows.

    The likeliest class is then the majority's, and the probabilities are the best that any constant could be. For
    values, the prediction is their mean or median.

    Args:
        table: Rows to predict.
        targets: Targets of the training rows, (m, K), in the form of `Predictions.targets`.
        weights: Weight of each training row, (m,); None for 1.
        centre: Which constant predicts values.

    Raises:
        InputError: If no training row has a label.

    Examples:
        >>> table = Predictions(["x"], [[0, 1]], [[0.5, 0.5]], ["no", "yes"])
        >>> majority(table, [[1, 0], [1, 0], [1, 0], [0, 1]]).probabilities.tolist()
        [[0.75, 0.25]]
    """
    constant = _constant(np.asarray(targets, dtype=np.float64), weights, table.kind, centre)
    return table.with_probabilities(np.tile(constant, (len(table), 1)))


def majority_out_of_fold(table: Predictions, *, centre: Centre = "mean") -> Predictions:
    """Return the table with the majority of the other folds as the prediction of each row.

    Args:
        table: Rows with their folds and targets; the predictions in it are not looked at.
        centre: Which constant predicts values.

    Raises:
        InputError: If a row has no fold, or the rows outside a fold have no label.
    """
    if (table.folds == NO_FOLD).any():
        raise InputError(f"{int((table.folds == NO_FOLD).sum())} rows have no fold", "give the fold of each row")
    found = np.empty_like(table.probabilities)
    for fold in np.unique(table.folds):
        inside = table.folds == fold
        found[inside] = _constant(table.targets[~inside], table.weights[~inside], table.kind, centre)
    return table.with_probabilities(found)


def _constant(
    targets: NDArray[np.float64], weights: ArrayLike | None, kind: Kind, centre: Centre
) -> NDArray[np.float64]:
    amounts = np.ones(len(targets)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = ~np.isnan(targets).any(axis=1) & (amounts > 0)
    if not known.any():
        raise InputError("no training row has a label, so that there is no majority", "add labels")
    targets, amounts = targets[known], amounts[known]
    if kind == "values" and centre == "median":
        return np.array([_median(column, amounts) for column in targets.T])
    return amounts @ targets / amounts.sum()


def _median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the median of weighted values: the mean of the two middle ones where they divide the weight in halves."""
    order = np.argsort(values, kind="stable")
    values, share = values[order], np.cumsum(weights[order]) / weights.sum()
    return float((values[np.argmax(share >= 0.5 - 1e-12)] + values[np.argmax(share > 0.5 + 1e-12)]) / 2)

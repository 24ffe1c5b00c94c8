"""Baselines of labels: what a model that reads no text predicts, as tables like those of any model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.labels.predictions import NO_FOLD, Predictions


def majority_out_of_fold(table: Predictions) -> Predictions:
    """Return the table with the frequencies of the classes in the other folds as the prediction of each row.

    The likeliest class is then the majority's, and the probabilities are the best that any constant could be. For
    values, the prediction is the mean of the other folds.

    Args:
        table: Rows with their folds and targets; the predictions in it are not looked at.

    Raises:
        InputError: If a row has no fold, or the rows outside a fold have no label.
    """
    if (table.folds == NO_FOLD).any():
        raise InputError(f"{int((table.folds == NO_FOLD).sum())} rows have no fold", "give the fold of each row")
    found = np.empty_like(table.probabilities)
    for fold in np.unique(table.folds):
        inside = table.folds == fold
        found[inside] = _constant(table.targets[~inside], table.weights[~inside])
    return table.with_probabilities(found)


def _constant(targets: NDArray[np.float64], amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(targets).any(axis=1) & (amounts > 0)
    if not known.any():
        raise InputError("no row outside a fold has a label, so that there is no majority", "add labels")
    return amounts[known] @ targets[known] / amounts[known].sum()

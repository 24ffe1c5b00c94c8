"""What a model takes for what: the confusion matrix, the pairs that are most often confused, the surest errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavra.evaluation.labels.predictions import Predictions


@dataclass(frozen=True)
class ConfusedPair:
    """A class, and another one that the model gave in its place.

    Attributes:
        truth: Number of the class that is right.
        said: Number of the class that was predicted.
        rows: Number of such rows.
        share: Their share of all rows of the class that is right.
    """

    truth: int
    said: int
    rows: int
    share: float


@dataclass(frozen=True)
class SureError:
    """A row on which the model is wrong.

    Attributes:
        row: Index of the row in the table.
        output: Number of the class, label or value that was predicted wrongly.
        sure: How sure the model was: the probability of what it said; for values, the distance from what is right.
    """

    row: int
    output: int
    sure: float


def confusion(table: Predictions) -> NDArray[np.int64]:
    """Return how many rows of each class (row) were predicted as each class (column), (K, K).

    Args:
        table: Predictions of classes. Rows of which nothing is known are left out.

    Examples:
        >>> table = Predictions("abc", [[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], ["no", "yes"])
        >>> confusion(table).tolist()
        [[1, 1], [0, 1]]
    """
    known = table.select(table.known)
    size = len(table.classes)
    return np.bincount(known.truth() * size + known.decisions(), minlength=size * size).reshape(size, size)


def confused_pairs(counts: NDArray[np.int64], most: int = 15) -> list[ConfusedPair]:
    """Return the pairs of classes that are confused most often, the most frequent first.

    Args:
        counts: The confusion matrix, see `confusion`.
        most: Largest number of pairs.

    Examples:
        >>> [(one.truth, one.said, one.rows) for one in confused_pairs(np.array([[5, 2], [1, 4]]))]
        [(0, 1, 2), (1, 0, 1)]
    """
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    pairs = ((int(one), int(other)) for one, other in zip(*np.unravel_index(order, off.shape), strict=True))
    totals = counts.sum(axis=1)
    return [
        ConfusedPair(one, other, int(off[one, other]), float(off[one, other] / totals[one]))
        for one, other in pairs
        if off[one, other]
    ]


def sure_errors(table: Predictions, most: int = 12) -> list[SureError]:
    """Return the rows on which a model is wrong and most sure, at most one error of each row.

    Args:
        table: The predictions. Rows of which nothing is known are left out.
        most: Largest number of errors.

    Examples:
        >>> table = Predictions("ab", [[1, 0], [1, 0]], [[0.4, 0.6], [0.2, 0.8]], ["no", "yes"])
        >>> [(one.row, one.output, one.sure) for one in sure_errors(table)]
        [(1, 1, 0.8), (0, 1, 0.6)]
    """
    rows = np.flatnonzero(table.known)
    known = table.select(rows)
    if not len(rows):
        return []
    truth, said = known.truth(), known.decisions()
    if table.kind == "values":
        sure, wrong = np.abs(known.probabilities - known.targets), known.probabilities != known.targets
    elif table.kind == "labels":
        sure, wrong = np.maximum(known.probabilities, 1 - known.probabilities), truth != said
    else:
        sure, wrong = np.zeros(known.targets.shape), np.zeros(known.targets.shape, dtype=bool)
        every = np.arange(len(rows))
        sure[every, said], wrong[every, said] = known.probabilities[every, said], truth != said
    sure = np.where(wrong, sure, -1.0)
    outputs = sure.argmax(axis=1)
    surest = sure[np.arange(len(rows)), outputs]
    order = [one for one in np.argsort(-surest, kind="stable")[:most].tolist() if surest[one] >= 0]
    return [SureError(int(rows[one]), int(outputs[one]), float(surest[one])) for one in order]

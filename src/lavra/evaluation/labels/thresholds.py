"""Thresholds of decisions: the probability from which on a label, or the second of two classes, is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.labels.predictions import Predictions

Goal = Literal["f1", "macro_f1", "balanced_accuracy"]
"""What a threshold makes as large as possible: the F1 of the label; the mean F1 of both sides; their mean recall."""


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of labels, or that of the second of two classes.

    Attributes:
        values: Probability from which on each label is given, (K,); for two classes (1,).
        untouched: Names of the labels that keep one half because no row, or every row, has them.
    """

    values: NDArray[np.float64]
    untouched: tuple[str, ...] = ()

    def decide(self, table: Predictions) -> NDArray[Any]:
        """Return the decisions on a table, in the form of `Predictions.decisions`."""
        if table.kind == "labels":
            return table.probabilities >= self.values
        return (table.probabilities[:, 1] >= self.values[0]).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the thresholds as plain values."""
        return {"values": self.values.tolist(), "untouched": list(self.untouched)}


def fit_thresholds(table: Predictions, goal: Goal | None = None) -> Thresholds:
    """Return the thresholds that suit out-of-fold predictions best.

    Thresholds lie in the middle between two neighbouring probabilities. Of several that are equally good, the one
    nearest to one half is taken. What they gain must be measured on other rows (`nested_gain`).

    Args:
        table: Predictions of labels, or of two classes. Rows of which nothing is known are left out.
        goal: What to make large; None for the F1 of each label, and for the macro F1 of two classes.

    Raises:
        InputError: If the predictions are values or more than two classes, or no row has a label.

    Examples:
        >>> from lavra.evaluation.labels.predictions import one_hot
        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> table = Predictions("abcd", one_hot([0, 0, 1, 1], 2), probabilities, ["no", "yes"])
        >>> fit_thresholds(table).values.tolist()
        [0.25]
    """
    if table.kind != "labels" and (table.kind != "classes" or len(table.classes) != 2):
        raise InputError(
            f"there are no thresholds of {len(table.classes)} {table.kind}", "use them for labels or for two classes"
        )
    known = table.select(table.known)
    if not len(known):
        raise InputError("no row has a label, so that no threshold can be fitted", "add labels")
    columns = range(len(table.classes)) if table.kind == "labels" else (1,)
    goal = goal or ("f1" if table.kind == "labels" else "macro_f1")
    truth = known.truth() if table.kind == "labels" else known.truth()[:, None] == np.arange(2)
    values, untouched = [], []
    for column in columns:
        value = best_threshold(known.probabilities[:, column], truth[:, column], known.weights, goal)
        values.append(0.5 if value is None else value)
        if value is None:
            untouched.append(table.classes[column])
    return Thresholds(np.array(values), tuple(untouched))


def best_threshold(
    probabilities: NDArray[np.float64], truth: NDArray[np.bool_], weights: NDArray[np.float64], goal: Goal
) -> float | None:
    """Return the threshold of one label; None where all rows have it, or none has.

    Args:
        probabilities: Probability of the label, (n,).
        truth: Whether each row has it, (n,).
        weights: Weight of each row, (n,).
        goal: What to make as large as possible.
    """
    positive, negative = weights @ truth, weights @ ~truth
    if positive <= 0 or negative <= 0:
        return None
    order = np.argsort(-probabilities, kind="stable")
    sorted_down = probabilities[order]
    # After the first i rows in falling order: what is found, and what is wrongly given. Only between two different
    # probabilities can a threshold lie; the ends give the label to no row and to every row.
    last = np.append(sorted_down[1:] != sorted_down[:-1], True)
    hits = np.concatenate([[0.0], np.cumsum((weights * truth)[order])[last]])
    wrong = np.concatenate([[0.0], np.cumsum((weights * ~truth)[order])[last]])
    levels = sorted_down[last]
    cuts = np.concatenate([[(1 + levels[0]) / 2], (levels[:-1] + levels[1:]) / 2, [levels[-1] / 2]])
    quality = _quality(hits, wrong, float(positive), float(negative), goal)
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])


def _quality(
    hits: NDArray[np.float64], wrong: NDArray[np.float64], positive: float, negative: float, goal: Goal
) -> NDArray[np.float64]:
    f1 = 2 * hits / (hits + wrong + positive)
    if goal == "f1":
        return f1
    spared = negative - wrong
    if goal == "balanced_accuracy":
        return (hits / positive + spared / negative) / 2
    return (f1 + 2 * spared / (spared + (positive - hits) + negative)) / 2

"""Confident learning: finds rows whose label is probably wrong, by out-of-fold predictions.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels". A row is suspicious
where the model gives its label a small probability (self-confidence), and is flagged where the model is confident of
another class: where that class is at least as probable as it is on average in the rows that carry it as their label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.labels.predictions import Predictions, one_hot


@dataclass(frozen=True)
class LabelErrors:
    """What confident learning says of each row.

    Attributes:
        order: Indices of the rows with a label, from the most suspicious one to the least.
        self_confidence: Probability of each row's own label, (n,); NaN where the label is unknown.
        flagged: Whether each row's label is probably wrong, (n,).
        suggested: Class of which the model is confident, (n,); the row's own label where it is confident of none.
        joint: Number of rows by label (row) and by the class of which the model is confident (column), (K, K). Rows
            of which it is confident of no class are left out.
        classes: Names of the classes.
    """

    order: NDArray[np.int64]
    self_confidence: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    suggested: NDArray[np.int64]
    joint: NDArray[np.int64]
    classes: tuple[str, ...]

    def confused(self, most: int = 10) -> list[tuple[str, str, int]]:
        """Return the (label, suggested class, rows) that are flagged most often, the most frequent first."""
        off = self.joint - np.diag(np.diag(self.joint))
        order = np.argsort(-off, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, off.shape), strict=True)
        return [(self.classes[one], self.classes[two], int(off[one, two])) for one, two in pairs if off[one, two]]


def label_errors(table: Predictions) -> LabelErrors:
    """Return which rows of a table are probably labelled wrongly.

    Args:
        table: Out-of-fold predictions of classes. A model that learned the rows themselves has learned their errors
            too, and finds few of them.

    Raises:
        InputError: If the predictions are not of classes, or no row has a label.

    Examples:
        >>> probabilities = np.tile([[0.9, 0.1], [0.2, 0.8]], (10, 1))
        >>> labels = np.tile([0, 1], 10)
        >>> labels[4] = 1
        >>> found = label_errors(Predictions(range(20), one_hot(labels, 2), probabilities, ["no", "yes"]))
        >>> found.order[0].item(), np.flatnonzero(found.flagged).tolist(), found.confused()
        (4, [4], [('yes', 'no', 1)])
    """
    if table.kind not in ("classes", "ordinal"):
        raise InputError(
            f"label errors are looked for in classes, not in {table.kind}", "look at one label at a time (`one_label`)"
        )
    known, size = np.flatnonzero(table.known), len(table.classes)
    if not len(known):
        raise InputError("no row has a label that could be wrong", "add labels")
    labels, probabilities = table.targets[known].argmax(axis=1), table.probabilities[known]
    own = probabilities[np.arange(len(labels)), labels]
    # The threshold of a class is the mean self-confidence of the rows that carry it. A class without rows has none.
    counts = np.bincount(labels, minlength=size)
    sums = np.bincount(labels, weights=own, minlength=size)
    thresholds = np.divide(sums, counts, out=np.full(size, np.inf), where=counts > 0)
    candidates = np.where(probabilities >= thresholds - 1e-12, probabilities, -1.0)
    confident = candidates.max(axis=1) >= 0
    best = np.where(confident, candidates.argmax(axis=1), labels)
    joint = np.zeros((size, size), dtype=np.int64)
    np.add.at(joint, (labels[confident], best[confident]), 1)
    everywhere = np.full(len(table), np.nan)
    everywhere[known] = own
    suggested = np.full(len(table), -1)
    suggested[known] = best
    flagged = np.zeros(len(table), dtype=bool)
    flagged[known] = best != labels
    return LabelErrors(
        known[np.argsort(own, kind="stable")], everywhere, flagged, suggested, joint, tuple(table.classes)
    )


def one_label(table: Predictions, label: str) -> Predictions:
    """Return the table of one label as two classes: without it, and with it.

    Args:
        table: Predictions of labels.
        label: Name of one of them.

    Raises:
        InputError: If the table has no such label.
    """
    if table.kind != "labels" or label not in table.classes:
        raise InputError(f"{label!r} is none of the {table.kind} {', '.join(table.classes)}", "choose one of them")
    column = tuple(table.classes).index(label)
    share, given = table.probabilities[:, column], table.targets[:, column]
    targets = one_hot(np.where(np.isnan(given), -1, given >= 0.5), 2)
    names = (f"not {label}", label)
    probabilities = np.column_stack([1 - share, share])
    return Predictions(table.ids, targets, probabilities, names, "classes", table.folds, table.seeds, table.weights)

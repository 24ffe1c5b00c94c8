"""What a table of predictions shows of its errors: confusions, each class, reliability, the most confident errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.labels.metric_formulas import BINS, bin_of, confidences
from lavra.evaluation.labels.predictions import Predictions


@dataclass(frozen=True, slots=True)
class ClassScores:
    """The scores of one class or label.

    Attributes:
        name: Name of the class.
        precision: Share of the rows said to be of the class that are; 0 where there are none.
        recall: Share of the rows of the class that are said to be; 0 where there are none.
        f1: Harmonic mean of both.
        support: Weight of the rows of the class; their number, unless rows have weights.
        predicted: Weight of the rows said to be of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: float
    predicted: float


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions of about the same confidence.

    Attributes:
        low: Lower end of the bin, which is open.
        high: Upper end of the bin.
        confidence: Mean confidence.
        accuracy: Share that was right.
        weight: Weight of the predictions in the bin; their number, unless rows have weights.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    weight: float


def confusion_matrix(table: Predictions, decisions: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Return the weight of the rows by true class (row) and decided class (column), (K, K).

    Args:
        table: Predictions of classes or of an order. Rows of which nothing is known are left out.
        decisions: What is decided for each row; None for `Predictions.decisions`.

    Raises:
        InputError: If the predictions are of labels or values, for which there is no one matrix.

    Examples:
        >>> table = Predictions("ab", [[1, 0], [0, 1]], [[0.9, 0.1], [0.6, 0.4]], ["no", "yes"])
        >>> confusion_matrix(table).tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """
    if table.kind not in ("classes", "ordinal"):
        raise InputError(f"there is no confusion matrix of {table.kind}", "look at one label at a time (`one_label`)")
    known, size = table.known, len(table.classes)
    decided = (table.decisions() if decisions is None else np.asarray(decisions))[known]
    truth = table.targets[known].argmax(axis=1)
    return np.bincount(truth * size + decided, weights=table.weights[known], minlength=size * size).reshape(size, size)


def most_confused(
    matrix: NDArray[np.float64], classes: tuple[str, ...], most: int = 10
) -> list[tuple[str, str, float]]:
    """Return the (true class, decided class, weight) that are confused most, the heaviest first.

    Args:
        matrix: The confusion matrix, (K, K).
        classes: Names of the classes.
        most: Number of pairs.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    places = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*(side.tolist() for side in np.unravel_index(places, wrong.shape)), strict=True)
    return [(classes[true], classes[said], float(wrong[true, said])) for true, said in pairs if wrong[true, said] > 0]


def class_scores(table: Predictions, decisions: NDArray[Any] | None = None) -> list[ClassScores]:
    """Return precision, recall and F1 of each class or label, in their order.

    Args:
        table: Predictions of classes, labels or an order. Rows of which nothing is known are left out.
        decisions: What is decided for each row; None for `Predictions.decisions`.

    Raises:
        InputError: If the predictions are of values.
    """
    if table.kind == "labels":
        known = table.known
        decided = np.asarray(table.decisions() if decisions is None else decisions, dtype=np.float64)[known]
        truth = table.select(known).truth().astype(np.float64)
        weights = table.weights[known]
        hits, true, said = (weights @ side for side in (truth * decided, truth, decided))
    else:
        matrix = confusion_matrix(table, decisions)
        hits, true, said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)

    def share(above: float, below: float) -> float:
        return float(above / below) if below > 0 else 0.0

    return [
        ClassScores(name, share(hit, b), share(hit, a), share(2 * hit, a + b), float(a), float(b))
        for name, hit, a, b in zip(table.classes, hits.tolist(), true.tolist(), said.tolist(), strict=True)
    ]


def reliability(table: Predictions) -> list[ReliabilityBin]:
    """Return how often predictions were right by how confident they were; empty bins are left out.

    The bins are those of the calibration error, which is the mean of their distances, weighted by their weights.

    Args:
        table: Predictions of classes or labels. Rows of which nothing is known are left out.

    Raises:
        InputError: If the predictions are of values or of an order.
    """
    if table.kind not in ("classes", "labels"):
        raise InputError(f"there is no reliability diagram of {table.kind}", "look at their errors")
    known = table.select(table.known)
    sure, right = confidences(known)
    weights = np.repeat(known.weights, sure.shape[1])
    bins = bin_of(sure.ravel())
    total, confidence, accuracy = (
        np.bincount(bins, weights=weights * part, minlength=BINS)
        for part in (np.ones(sure.size), sure.ravel(), right.ravel())
    )
    return [
        ReliabilityBin(place / BINS, (place + 1) / BINS, confidence[place] / weight, accuracy[place] / weight, weight)
        for place, weight in enumerate(total.tolist())
        if weight > 0
    ]


def confident_errors(table: Predictions, most: int = 20) -> NDArray[np.int64]:
    """Return the indices of the rows that are wrong, those first whose wrong class is the most probable.

    Args:
        table: Predictions of classes. Rows of which nothing is known are left out.
        most: Number of rows.

    Raises:
        InputError: If the predictions are not of classes.
    """
    if table.kind not in ("classes", "ordinal"):
        raise InputError(f"errors of {table.kind} have no class", "look at one label at a time (`one_label`)")
    known = np.flatnonzero(table.known)
    said, truth = table.decisions()[known], table.targets[known].argmax(axis=1)
    wrong = known[said != truth]
    sure = table.probabilities[wrong, said[said != truth]]
    return wrong[np.argsort(-sure, kind="stable")][:most]

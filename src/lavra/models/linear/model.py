"""A linear model of texts: what it predicts, and the words by which it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavra.models.linear.features import Features, Texts

Kind = Literal["classes", "labels", "values", "ordinal"]
"""What is predicted: one class of several; labels that may hold together; numbers; classes in an order."""


@dataclass(frozen=True, eq=False)
class LinearModel:
    """TF-IDF features with a logistic regression, one column against the rest, or with a ridge regression.

    Attributes:
        kind: What is predicted.
        classes: Names of the classes, labels or values.
        features: Turns texts into features.
        weights: (features, columns) float32. There is one column for each class, label or value; one for two classes,
            which is that of the second; and one for an order, which is the number of the class.
        biases: (columns,).
        spread: Standard deviation of an order's number around its prediction, in rows that were not trained on.
        strength: Inverse strength of the penalty, `C` of scikit-learn.
        chosen_from: Cross-validated loss of each strength that was tried, log-loss or squared error.
        notes: Sentences on what a person should know of the training.
    """

    kind: Kind
    classes: tuple[str, ...]
    features: Features
    weights: NDArray[np.float32]
    biases: NDArray[np.float64]
    spread: float = 0.0
    strength: float = 1.0
    chosen_from: dict[float, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def predict_proba(self, texts: Texts) -> NDArray[np.float64]:
        """Return the probability of each class or label, or the values, (rows, classes).

        Args:
            texts: Rows of one text or of two, as in the training.

        Raises:
            InputError: If the rows have another number of texts than those of the training.
        """
        return outputs(self.features.transform(texts), self)

    def deciding_words(self, most: int = 10) -> dict[str, list[tuple[str, float]]]:
        """Return the words and bigrams with the largest weights for each class, the largest first.

        Of two classes, the first has those with the most negative weights, their sign turned around. Of values and of
        an order, the words that raise the number are given under ">", and those that lower it under "<", with the
        name of the value before it where there are several.

        Args:
            most: Number of words for each class.
        """
        if self.kind in ("values", "ordinal"):
            names = self.classes if len(self.classes) > 1 and self.kind == "values" else ("",)
            signed = [
                (f"{name}{sign}", place, way) for place, name in enumerate(names) for sign, way in ((">", 1), ("<", -1))
            ]
        elif self.kind == "classes" and len(self.classes) == 2:
            signed = [(self.classes[0], 0, -1), (self.classes[1], 0, 1)]
        else:
            signed = [(name, place, 1) for place, name in enumerate(self.classes)]
        return {name: self._largest(way * self.weights[:, place], most) for name, place, way in signed}

    def _largest(self, weights: NDArray[np.float32], most: int) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        for where, columns in self.features.word_columns():
            part = weights[columns]
            for place in np.argsort(-part, kind="stable")[:most].tolist():
                if part[place] > 0:
                    word = self.features.tfidf.words[place]
                    found.append((f"{word} ({where})" if where else word, float(part[place])))
        return sorted(found, key=lambda pair: -pair[1])[:most]


def outputs(matrix: Any, model: LinearModel) -> NDArray[np.float64]:
    """Return what a model says of rows that are features already, (rows, classes)."""
    scores = np.asarray(matrix @ model.weights.astype(np.float64)) + model.biases
    return from_scores(scores, model.kind, model.classes, model.spread)


def from_scores(scores: NDArray[np.float64], kind: Kind, classes: Sequence[str], spread: float) -> NDArray[np.float64]:
    """Return probabilities or values, (rows, classes), from (rows, columns) scores of the regressions."""
    if kind == "values":
        return scores
    if kind == "ordinal":
        return _levels(scores[:, 0], len(classes), spread)
    shares = np.exp(-np.logaddexp(0, -scores))
    if kind == "labels":
        return shares
    if len(classes) == 2:
        return np.column_stack([1 - shares[:, 0], shares[:, 0]])
    # In logarithms, so that a row that every regression refuses still has probabilities.
    logs = -np.logaddexp(0, -scores)
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _levels(numbers: NDArray[np.float64], count: int, spread: float) -> NDArray[np.float64]:
    """Return the probability of each class of an order: that of a normal distribution between its borders.

    The median of these probabilities is the class that is nearest to the number.
    """
    from scipy.special import ndtr

    borders = np.arange(count - 1) + 0.5
    below = ndtr((borders - numbers[:, None]) / max(spread, 1e-6))
    return np.diff(below, axis=1, prepend=0.0, append=1.0)

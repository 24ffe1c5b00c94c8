"""Tables of predictions for tests: planted truth, and a model that is right to a given degree."""

from __future__ import annotations

import numpy as np

from lavra.evaluation.labels.predictions import Kind, Predictions, one_hot


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def table_of(
    kind: Kind = "classes",
    *,
    rows: int = 200,
    classes: int = 3,
    skill: float = 1.5,
    seed: int = 0,
    weighted: bool = False,
) -> Predictions:
    """Return a table whose rows depend on `seed`, and whose targets depend on nothing but `rows` and `classes`."""
    truth, noise = np.random.default_rng(rows * 100 + classes), np.random.default_rng(seed)
    ids, names = [f"r{row}" for row in range(rows)], [f"c{number}" for number in range(classes)]
    weights = truth.uniform(0.2, 3, rows) if weighted else None
    labels = truth.integers(0, classes, rows)
    given = {"ids": ids, "classes": names, "kind": kind, "weights": weights, "folds": np.arange(rows) % 4}
    if kind == "values":
        targets = truth.normal(size=(rows, classes))
        return Predictions(targets=targets, probabilities=skill * targets + noise.normal(size=targets.shape), **given)
    if kind == "labels":
        targets = (truth.random((rows, classes)) < 0.3).astype(float)
        logits = skill * (2 * targets - 1) + noise.normal(size=targets.shape)
        return Predictions(targets=targets, probabilities=1 / (1 + np.exp(-logits)), **given)
    targets = one_hot(labels, classes)
    probabilities = softmax(skill * targets + noise.normal(size=targets.shape))
    return Predictions(targets=targets, probabilities=probabilities, **given)

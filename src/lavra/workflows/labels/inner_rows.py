"""The training rows, divided into folds of their own: what is decided before the training is decided inside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.seeds import numpy_stream
from lavra.data.folds import Folds, make_folds
from lavra.evaluation.labels.predictions import Predictions
from lavra.tasks.label_predictions import groups_of, ids_of, weights_of
from lavra.tasks.labelled_text import LabelledTextTask

Predict = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""Fits a model to the first rows, and returns what it says of the second ones, (rows, outputs)."""

_COMPARED = 20_000
"""Most rows among which near duplicates are looked for, which are then kept together."""


@dataclass(frozen=True, eq=False)
class InnerRows:
    """Rows with a label, and their folds.

    Attributes:
        rows: The columns of each row, with its texts.
        targets: What is known of each, (rows, outputs).
        folds: Folds of the rows, in which near duplicates and groups stay together.
        classes: Names of the outputs.
        kind: What the predictions are.
        seed: Seed of the order in which parts of the rows are taken.
    """

    rows: Sequence[Mapping[str, Any]]
    targets: NDArray[np.float64]
    folds: Folds
    classes: Sequence[str]
    kind: Any
    seed: int = 0

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weight of each row, (rows,)."""
        return weights_of(self.rows)

    def table(self, probabilities: NDArray[np.float64]) -> Predictions:
        """Return predictions of all rows as a table."""
        return Predictions(
            ids_of(self.rows),
            self.targets,
            probabilities,
            self.classes,
            self.kind,
            folds=self.folds.fold,
            weights=self.weights,
        )

    def size(self, share: float) -> float:
        """Return the mean number of rows that the model of a fold learns from."""
        sizes = [len(self._part(fold, share)) for fold in range(self.folds.count)]
        return float(np.mean(sizes))

    def out_of_fold(self, predict: Predict, share: float = 1.0) -> Predictions:
        """Return what models say of the rows, each by one that was fitted to a share of the rows of the other folds.

        Args:
            predict: Fits a model and applies it.
            share: Share of the rows of the other folds; a smaller share is a part of a larger one.
        """
        found = np.empty_like(self.targets)
        for fold in range(self.folds.count):
            inside = self.folds.validation(fold)
            found[inside] = predict(self._part(fold, share), inside)
        return self.table(found)

    def _part(self, fold: int, share: float) -> NDArray[np.int64]:
        outside = self.folds.training(fold)
        drawn = numpy_stream(self.seed, "part of the rows", fold).permutation(outside)  # files may be sorted by label
        return drawn[: max(1, round(share * len(drawn)))]


def inner_rows(
    task: LabelledTextTask, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], count: int, seed: int = 0
) -> InnerRows | None:
    """Divide training rows into folds of their own; None where there are too few.

    Args:
        task: The task.
        facts: What the task knows of the data.
        rows: The columns of the training rows, with their texts; those without a label are left out.
        count: Number of folds.
        seed: Seed of the order in which parts of the rows are taken.
    """
    targets = task.targets(facts, rows)
    known = np.flatnonzero(~np.isnan(targets).any(axis=1)) if len(rows) else np.array([], dtype=np.int64)
    rows, targets = [rows[row] for row in known.tolist()], targets[known]
    if len(rows) < 2 * count:
        return None
    values = task.kind == "values"
    labels = targets[:, 0] if values else targets if task.kind == "labels" else targets.argmax(axis=1).tolist()
    folds = make_folds(
        labels,
        count,
        values=values,
        texts=["\n".join(row["texts"]) for row in rows] if len(rows) <= _COMPARED else None,
        groups=groups_of(rows),
        rare=True,
    )
    return InnerRows(rows, targets, folds, facts["classes"], task.kind, seed)

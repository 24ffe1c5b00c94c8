"""Regression: a number for a text, or for a pair of texts, such as how similar the two are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lavra.core.errors import InputError
from lavra.data.examples.labelled import number_in
from lavra.evaluation.labels.predictions import Predictions
from lavra.tasks.label_predictions import placed
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import SCORE_NAMES, LabelledTextTask


class RegressionTask(LabelledTextTask):
    """A number for each text, learned in units of its standard deviation in the training data, from their mean."""

    name, objectives = "regression", ("regression",)
    outputs, kind = "values", "values"
    label_names = SCORE_NAMES
    headline = "mean_squared_error"

    def label_facts(self, column: str, dataset: LabelledDataset) -> dict[str, Any]:
        """Return the mean of the numbers, and their standard deviation; a constant has the deviation 1."""
        numbers = np.array([_number_in(row, column) for row in dataset.labelled()])
        deviation = float(numbers.std())
        return {"classes": [column], "mean": float(numbers.mean()), "deviation": deviation if deviation > 0 else 1.0}

    def target(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        """Return the number in units of the deviation, from the mean."""
        value = row.get(facts["classes"][0])
        return None if value is None else [(_number_in(row, facts["classes"][0]) - facts["mean"]) / facts["deviation"]]

    def targets(self, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return the number of each row; NaN where it has none."""
        column = facts["classes"][0]
        return np.array([[math.nan if row.get(column) is None else _number_in(row, column)] for row in rows])

    def probabilities(self, facts: Mapping[str, Any], outputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs in the units of the numbers."""
        return outputs * facts["deviation"] + facts["mean"]

    def majority(self, facts: Mapping[str, Any], table: Predictions) -> Predictions:
        """Return the mean of the training data for every row."""
        return table.with_probabilities(np.full((len(table), 1), facts["mean"]))

    def first_loss(self, facts: dict[str, Any]) -> float:
        """Return the loss of predicting the mean."""
        return 1.0

    def metrics(self, loss: float, parts: Mapping[str, float], **_: Any) -> dict[str, float]:
        """Return the loss by its name: the mean squared error in units of the variance of the training data."""
        return {"mean_squared_error": loss}


def _number_in(row: Mapping[str, Any], column: str) -> float:
    with placed(row):
        return as_number(row[column])


def as_number(value: object) -> float:
    """Return a label as a number, which may have a decimal comma.

    Raises:
        InputError: If it is none.

    Examples:
        >>> as_number("3.5"), as_number("3,5"), as_number(4)
        (3.5, 3.5, 4.0)
    """
    number = number_in(value)
    if not math.isfinite(number):
        raise InputError(f"the label {value!r} is no number", "give numbers, or use --task classification for classes")
    return number

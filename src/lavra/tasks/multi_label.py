"""Multi-label classification: which of some labels, any number of them, hold for a text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.data.examples.labelled import LabelColumns
from lavra.evaluation.labels.predictions import Predictions
from lavra.tasks.classification import class_name, number_of, ordered
from lavra.tasks.datasets import DataDescription
from lavra.tasks.label_predictions import placed
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask

SEPARATORS = ("|", ";", ",")
"""What may stand between the labels of a cell, in the order in which it is looked for."""

_PREFIX = "label_"
"""Beginning of the names of columns that hold 1 where a label holds, and 0 where it does not."""
_RESERVED = "label_probs"

_YES = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}


class MultiLabelTask(LabelledTextTask):
    """Which labels hold for a text.

    They come as a list, as text with `|`, `;` or `,` between them, or as columns `label_…` that hold 0 or 1.
    """

    name, objectives = "multi-label", ("multi-label",)
    outputs, kind = "labels", "labels"

    def recognises(self, data: DataDescription) -> bool:
        """Return whether the labels of the first row are a list, or there are several columns `label_…`."""
        columns = self.columns_of(data)
        if columns is None or data.prepared is not None:
            return False
        first, *others = columns.labels
        return bool(others) or isinstance(data.first_row.get(first), list | tuple)

    def columns_of(self, data: DataDescription) -> LabelColumns | None:
        """Return the columns of text and labels; columns `label_…` count where there is no other column of labels."""
        found = super().columns_of(data)
        several = tuple(sorted(name for name in data.columns if name.startswith(_PREFIX) and name != _RESERVED))
        if found is not None or len(several) < 2:
            return found
        known = super().columns_of(replace(data, label_column=several[0]))
        return None if known is None else LabelColumns(known.text, several, known.second, known.template)

    def label_facts(self, column: str, dataset: LabelledDataset) -> dict[str, Any]:
        """Return the names of the labels in order, how many rows have each, and what separates them in a cell."""
        columns = dataset.columns_read["labels"]
        if len(columns) > 1:
            names, separator = [name.removeprefix(_PREFIX) for name in columns], ""
        else:
            separator = _separator(dataset.labels(column))
            names = ordered({name for row in dataset.labelled() for name in _shares(row, columns, separator)})
        if not names:
            raise InputError(f"the column {column!r} holds no labels", "give rows with at least one label")
        counts = np.zeros(len(names))
        rows = 0
        for row in dataset.labelled():
            rows += 1
            for name, share in _shares(row, columns, separator).items():
                counts[number_of(name, names)] += share
        return {"classes": names, "separator": separator, "frequencies": (counts / rows).tolist()}

    def target(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        """Return 1 for each label that holds, and 0 for the others; those of `label_probs` where it is given."""
        return None if (found := self._row(facts, row)) is None else found.tolist()

    def targets(self, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return what holds for each row, (rows, labels); NaN where nothing is known."""
        nothing = np.full(len(facts["classes"]), math.nan)
        found = [self._row(facts, row) for row in rows]
        return np.array([nothing if one is None else one for one in found])

    def _row(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> np.ndarray | None:
        names, columns = facts["classes"], facts["columns"]["labels"]
        if not isinstance(row.get(_RESERVED), Mapping) and any(row.get(name) is None for name in columns):
            return None
        numbers = np.zeros(len(names))
        for name, share in _shares(row, columns, facts["separator"]).items():
            numbers[number_of(name, names)] = share
        return numbers

    def majority(self, facts: Mapping[str, Any], table: Predictions) -> Predictions:
        """Return the share of the training rows that have each label, for every row."""
        return table.with_probabilities(np.tile(np.array(facts["frequencies"]), (len(table), 1)))

    def first_loss(self, facts: dict[str, Any]) -> float:
        """Return the loss of guessing one half for each label."""
        return math.log(2.0)


def _shares(row: Mapping[str, Any], columns: Sequence[str], separator: str) -> dict[str, float]:
    """Return the labels of a row with the probability of each: 1, or those of `label_probs` where it is given."""
    given = row.get(_RESERVED)
    if isinstance(given, Mapping):
        return {class_name(name): float(share) for name, share in given.items()}
    return dict.fromkeys(labels_of(row, columns, separator), 1.0)


def labels_of(row: Mapping[str, Any], columns: Sequence[str], separator: str) -> list[str]:
    """Return the names of the labels that hold for a row.

    Args:
        row: The columns of the row.
        columns: The column of the labels, or one for each label.
        separator: What stands between the labels of a cell that holds text.

    Raises:
        InputError: If a cell cannot be read.

    Examples:
        >>> labels_of({"label": "a|b"}, ["label"], "|")
        ['a', 'b']
        >>> labels_of({"label_a": "0", "label_b": 1}, ["label_a", "label_b"], "")
        ['b']
    """
    with placed(row):
        if len(columns) > 1:
            return [name.removeprefix(_PREFIX) for name in columns if _holds(row[name], name)]
        return list(dict.fromkeys(_names_in(row.get(columns[0]), separator)))


def _names_in(value: object, separator: str) -> list[str]:
    """Return the names in a cell: the members of a list, also of one written as JSON, or what the separator parts."""
    if isinstance(value, str) and value.strip().startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, list | tuple):
        return [class_name(one) for one in value]
    text = class_name(value)
    parts = text.split(separator) if separator else [text]
    return [part.strip() for part in parts if part.strip()]


def _separator(values: Sequence[Any]) -> str:
    """Return the separator of labels: the first that occurs in a cell of text; none where every cell has one label."""
    texts = [value for value in values if isinstance(value, str) and not value.startswith("[")]
    return next((mark for mark in SEPARATORS if any(mark in text for text in texts)), "")


def _holds(value: object, column: str) -> bool:
    """Return whether a cell of a column for one label says that it holds."""
    if isinstance(value, bool):
        return value
    found = _YES.get(str(value).strip().lower())
    if found is None:
        raise InputError(f"the column {column!r} holds {value!r}", "write 1 where the label holds, and 0 elsewhere")
    return found

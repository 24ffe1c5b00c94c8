"""Classification: which of some classes a text, or a pair of texts, belongs to."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.core.nearest import did_you_mean
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.tasks.label_predictions import placed
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask

_ROWS_OF_CLASS = 2.0
"""Fewest rows of a class on average; labels with fewer are no classes."""


class ClassificationTask(LabelledTextTask):
    """Which of some classes a text belongs to: labels are text or whole numbers, and `label_probs` shares of them."""

    name, objectives = "classification", ("classification",)
    outputs, kind = "classes", "classes"

    def label_facts(self, column: str, dataset: LabelledDataset) -> dict[str, Any]:
        """Return the names of the classes, in order, their frequencies, and their weights where they are balanced."""
        counts: defaultdict[str, float] = defaultdict(float)
        for row in dataset.labelled():
            with placed(row):
                for name, share in shares(row, column).items():
                    counts[name] += share
        classes = ordered(counts)
        _refuse(classes, counts, column)
        frequencies = [counts[name] for name in classes]
        total = sum(frequencies)
        weights = [total / (len(classes) * frequency) for frequency in frequencies]
        return {"classes": classes, "frequencies": frequencies, "class_weights": weights}

    def target(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        """Return the number of the class, or the probability of each."""
        classes = facts["classes"]
        with placed(row):
            found = shares(row, facts["columns"]["labels"][0])
            numbers = [number_of(name, classes) for name in found]
        if len(found) <= 1:
            return numbers[0] if numbers else None
        probabilities = [0.0] * len(classes)
        for number, share in zip(numbers, found.values(), strict=True):
            probabilities[number] = share
        return probabilities

    def targets(self, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return the probability of each class for each row; NaN where a row has no label."""
        classes = facts["classes"]
        found = np.full((len(rows), len(classes)), np.nan)
        for number, row in enumerate(rows):
            label = self.target(facts, row)
            if label is not None:
                found[number] = label if isinstance(label, list) else np.eye(len(classes))[label]
        return found

    def first_loss(self, facts: dict[str, Any]) -> float:
        """Return the loss of guessing all classes alike."""
        return math.log(len(facts["classes"]))


def class_name(label: object) -> str:
    """Return a label as the name of a class: text without white space around it, and whole numbers without a point.

    Raises:
        InputError: If it is neither text nor a whole number nor a truth value.

    Examples:
        >>> class_name(" good "), class_name(3.0), class_name(True)
        ('good', '3', 'True')
    """
    if isinstance(label, str):
        return label.strip()
    if isinstance(label, bool | int):
        return str(label)
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    what = "a list" if isinstance(label, list | tuple) else f"{label!r}"
    raise InputError(
        f"the label {what} is no class",
        "give one text or whole number for each row; for several labels of a text --task multi-label, "
        "for numbers --task regression",
    )


def shares(row: Mapping[str, Any], column: str) -> dict[str, float]:
    """Return the classes of a row with their probabilities: one of probability 1, or those of `label_probs`.

    Args:
        row: The columns of the row.
        column: The column of the label.

    Raises:
        InputError: If the probabilities are none.
    """
    given = row.get("label_probs")
    if given is None:
        label = row.get(column)
        return {} if label is None else {class_name(label): 1.0}
    if not isinstance(given, Mapping) or not given:
        raise InputError("label_probs holds no probabilities by class", 'write them as {"good": 0.7, "bad": 0.3}')
    numbers = {class_name(name): float(share) for name, share in given.items()}
    total = sum(numbers.values())
    if min(numbers.values()) < 0 or not math.isfinite(total) or total <= 0:
        raise InputError(f"label_probs holds {given}", "write probabilities from 0 to 1 that add up to 1")
    return {name: share / total for name, share in numbers.items() if share > 0}


def ordered(names: Mapping[str, Any] | set[str]) -> list[str]:
    """Return names in order: numbers by their size where all are numbers, else by the alphabet.

    Examples:
        >>> ordered({"10", "9"}), ordered({"b", "a"})
        (['9', '10'], ['a', 'b'])
    """
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def number_of(name: str, classes: list[str]) -> int:
    """Return the number of a class by its name.

    Raises:
        InputError: If there is no such class; the message names the nearest.
    """
    try:
        return classes.index(name)
    except ValueError:
        raise InputError(
            f"the label {name!r} is none of the {counted(len(classes), 'class', 'classes')} that the model learned",
            f"{did_you_mean(name, classes)}classes: {', '.join(classes[:20])}{', …' if len(classes) > 20 else ''}",
        ) from None


def _refuse(classes: list[str], counts: Mapping[str, float], column: str) -> None:
    """Refuse labels from which no classes can be learned, and say what is odd about others."""
    rows = sum(counts.values())
    if len(classes) < 2:
        only = f"{classes[0]!r} alone" if classes else "nothing"
        raise InputError(f"the column {column!r} holds {only}", "give rows of at least two classes")
    if rows < _ROWS_OF_CLASS * len(classes):
        raise InputError(
            f"the column {column!r} holds {len(classes):,} different values in {round(rows):,} rows, such as "
            f"{', '.join(repr(name[:30]) for name in classes[:3])}: these are no classes",
            "name another column with --label-column, or predict numbers with --task regression",
        )
    single = [name for name in classes if counts[name] <= 1]
    if single:
        named = f"{counted(len(single), 'class', 'classes')} with one row: {', '.join(single[:5])}"
        log(f"warning: {named}; it cannot be validated")
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            told = " and ".join(f"{name!r} ({counts[name]:g} rows)" for name in names)
            log(f"warning: {told} differ only in capital letters and are learned as different classes")

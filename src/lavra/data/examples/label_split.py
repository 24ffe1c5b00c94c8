"""Which labelled rows are validation data: a share of every class, with near duplicates and groups on one side."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.examples.labelled import number_in
from lavra.data.examples.rows import ExampleRow
from lavra.data.folds import make_folds

_ENOUGH = 400
"""Rows of validation data that a small data set gives, as far as `_MOST` allows, so that its figures say something."""
_MOST = 0.2
"""Largest share of a small data set that is taken for that."""

_CLASSES = 20
"""Different numbers from which on labels are not divided as classes."""

_COMPARED = 50_000
"""Most rows among which near duplicates are looked for."""


def validation_rows(rows: Iterable[ExampleRow], share: float) -> set[int]:
    """Return the numbers of the rows that are validation data.

    Args:
        rows: All rows, in order.
        share: Share of the rows that is wanted; a small data set gives more, up to a fifth.

    Raises:
        InputError: If there are too few rows, or they have only one class.
    """
    texts: list[str] = []
    labels: list[Any] = []
    groups: list[Hashable] = []
    for row in rows:
        texts.append(f"{row.prompt}\n{row.completion}" if row.completion else row.prompt)
        labels.append(row.stratum)
        group = row.labels.get("group")
        groups.append(None if group is None else str(group))
    if len(texts) < 2:
        raise InputError(f"{len(texts)} rows are too few to learn from", "give more rows")
    _refuse_swapped(texts, labels)
    share = max(share, min(_MOST, _ENOUGH / len(texts)))
    numbers = _as_numbers(labels)
    folds = make_folds(
        (None if None in labels else labels) if numbers is None else numbers,
        max(2, min(len(texts), round(1 / share))),
        values=numbers is not None,
        texts=texts if len(texts) <= _COMPARED else None,
        groups=groups if any(one is not None for one in groups) else None,
        rare=True,
        rows=len(texts),
    )
    together = len(texts) - int(folds.unit.max()) - 1
    if together:
        log(f"{counted(together, 'row')} on the side of a near duplicate, or of the group, in training or validation")
    return set(folds.validation(0).tolist())


def _as_numbers(labels: list[Any]) -> np.ndarray | None:
    """Return labels as numbers where they are numbers of many different values; None where they are classes."""
    numbers = np.array([number_in(label) for label in labels])
    return numbers if not np.isnan(numbers).any() and len(np.unique(numbers)) > _CLASSES else None


def _refuse_swapped(texts: list[str], labels: list[Any]) -> None:
    """Refuse rows whose text takes few values while nearly every row has another label.

    Raises:
        InputError: If text and label look swapped.
    """
    different, named = len(set(texts)), len({str(label) for label in labels})
    if different <= _CLASSES and named > _CLASSES and named > len(texts) / 2 > different:
        raise InputError(
            f"the text takes {counted(different, 'value')} in {len(texts):,} rows, and the label {named:,}: they look "
            "swapped",
            "name the columns the other way round: --text-column COLUMN --label-column COLUMN",
        )

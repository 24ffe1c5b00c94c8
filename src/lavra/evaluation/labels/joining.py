"""Several tables of predictions: joined row by row, averaged over seeds, or set side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.labels.predictions import BY_ROW, Predictions


def joined(tables: Sequence[Predictions]) -> Predictions:
    """Return one table of the rows of several, such as those of the folds or of the seeds, in their order.

    Args:
        tables: At least one table. All have the same classes in the same order.

    Raises:
        InputError: If the classes or the kinds differ, or a row occurs twice with one seed.
    """
    first = tables[0]
    for table in tables[1:]:
        if (table.classes, table.kind) != (first.classes, first.kind):
            raise InputError(
                f"predictions of {first.kind} {first.classes} and of {table.kind} {table.classes} cannot be joined",
                "predict the same classes in the same order everywhere",
            )
    return replace(
        first,
        ids=[one for table in tables for one in table.ids],
        **{name: np.concatenate([getattr(table, name) for table in tables]) for name in BY_ROW},
    )


def mean_over_seeds(table: Predictions) -> Predictions:
    """Return a table with one row for each id, in the same order, whose predictions are the mean over the seeds.

    Args:
        table: A table with any number of seeds for each id.

    Raises:
        InputError: If the targets or weights of a row differ between its seeds.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(table.ids))}
    unit = np.array([numbers[one] for one in table.ids], dtype=np.int64)
    first = np.unique(unit, return_index=True)[1]
    for name in ("targets", "weights"):
        values = getattr(table, name)
        same = np.equal(values, values[first][unit]) | (np.isnan(values) & np.isnan(values[first][unit]))
        if not same.all():
            row = table.ids[int(np.argmin(same.reshape(len(table), -1).all(axis=1)))]
            raise InputError(
                f"the {name} of row {row!r} differ between its seeds", "predict the same rows with each seed"
            )
    total = np.zeros((len(first), len(table.classes)))
    np.add.at(total, unit, table.probabilities)
    means = total / np.bincount(unit, minlength=len(first))[:, None]
    chosen = table.select(first)
    return replace(chosen, probabilities=means, seeds=np.zeros(len(first), dtype=np.int64))


def aligned(tables: Sequence[Predictions], names: Sequence[str] | None = None) -> list[Predictions]:
    """Return tables of several models with their rows in one order, that of the first, so that row faces row.

    Args:
        tables: Tables of the same rows and seeds.
        names: Names of the tables, for messages; None calls them by their numbers.

    Raises:
        InputError: If the classes, the rows, their targets or their weights differ.
    """
    names = names or [f"table {number + 1}" for number in range(len(tables))]
    others = zip(tables[1:], names[1:], strict=True)
    return [tables[0], *(table.select(order_like(tables[0], table, (names[0], name))) for table, name in others)]


def order_like(first: Predictions, second: Predictions, names: tuple[str, str]) -> NDArray[np.int64]:
    """Return the indices of the rows of the second table that bring them into the order of the first, (n,).

    Args:
        first: A table.
        second: A table of the same rows and seeds.
        names: Names of the two tables, for messages.

    Raises:
        InputError: If the classes, the rows, their targets or their weights differ.
    """
    if (first.classes, first.kind) != (second.classes, second.kind):
        raise InputError(
            f"{names[0]} predicts {first.kind} {first.classes}, and {names[1]} {second.kind} {second.classes}",
            "predict the same classes in the same order",
        )
    keys, others = (list(zip(table.ids, table.seeds.tolist(), strict=True)) for table in (first, second))
    place = {key: number for number, key in enumerate(others)}
    missing = [key for key in keys if key not in place]
    if missing or len(others) != len(keys):
        example = missing[0] if missing else next(key for key in others if key not in set(keys))
        has, lacks = names if missing else names[::-1]
        raise InputError(
            f"{has} predicts row {example[0]!r} with seed {example[1]}, and {lacks} does not",
            "predict the same rows; average over the seeds first where their numbers differ (`mean_over_seeds`)",
        )
    order = np.array([place[key] for key in keys], dtype=np.int64)
    for what in ("targets", "weights"):
        one, other = getattr(first, what), getattr(second, what)[order]
        same = ((one == other) | (np.isnan(one) & np.isnan(other))).reshape(len(one), -1).all(axis=1)
        if not same.all():
            row = first.ids[int(np.argmin(same))]
            raise InputError(
                f"the {what} of row {row!r} differ between {names[0]} and {names[1]}", "use the same labels"
            )
    return order

"""Divides labelled rows into folds: stratified, with groups and near duplicates kept together, or by time.

Rows that belong together (one author, one document, texts that are nearly the same) form a unit, and a unit is never
divided. Units are assigned by iterative stratification (`data.stratification`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.errors import InputError
from lavra.data.stratification import Members, iterative_stratification
from lavra.text.near_duplicates import near_duplicates

ALWAYS_TRAINING = -1
"""Fold of the rows that are trained on in every fold and never validated: the earliest ones of folds by time."""

_QUANTILES = 10  # strata of values: tenths of the rows by their value
_NAMED = 5  # classes that a message names


@dataclass(frozen=True, eq=False)
class Folds:
    """The fold in which each row is validated.

    Attributes:
        fold: Fold of each row, (n,), 0 to `count - 1`, or `ALWAYS_TRAINING`.
        count: Number of folds.
        unit: Number of the unit of each row, (n,): rows with one number are never divided.
        by_time: Whether a fold is trained on what came before it, and not on all other folds.
        notes: Sentences on what a person should know of the division.

    Examples:
        >>> folds = make_folds(["yes", "no"] * 4, count=2)
        >>> [folds.validation(0).size, folds.training(0).size]
        [4, 4]
    """

    fold: NDArray[np.int64]
    count: int
    unit: NDArray[np.int64] = field(repr=False)
    by_time: bool = False
    notes: tuple[str, ...] = ()

    def validation(self, fold: int) -> NDArray[np.int64]:
        """Return the indices of the rows that are validated in a fold."""
        return np.flatnonzero(self.fold == fold)

    def training(self, fold: int) -> NDArray[np.int64]:
        """Return the indices of the rows that are trained on in a fold; none shares a unit with a validated row."""
        if not self.by_time:
            return np.flatnonzero(self.fold != fold)
        apart = ~np.isin(self.unit, self.unit[self.fold == fold])
        return np.flatnonzero((self.fold < fold) & apart)


def make_folds(
    labels: ArrayLike | Sequence[Hashable] | None,
    count: int = 5,
    *,
    values: bool = False,
    texts: Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None,
    times: Sequence[float] | Sequence[str] | None = None,
    rare: bool = False,
    seed: int = 0,
    rows: int | None = None,
) -> Folds:
    """Divide rows into folds.

    Args:
        labels: The class of each row, (n,), of which None is unknown and a stratum of its own; or for labels that may
            hold together (n, K) of 0 and 1; or with `values` numbers, (n,). None stratifies by nothing.
        count: Number of folds, at least 2.
        values: Whether labels are numbers, whose tenths are the strata.
        texts: Text of each row. With them, near duplicates (`text.near_duplicates`) are kept together.
        groups: What each row belongs to, such as its author or document; rows of one group are kept together. None in
            it says that a row belongs to nothing.
        times: When each row was made, as numbers or as dates that sort as text, such as "2024-05-01". With them, fold
            0 is validated on what came after the first part of the rows, and so on; nothing is drawn at random.
        rare: Whether classes with fewer rows than folds are allowed; some folds then have none of them.
        seed: Seed of the division.
        rows: Number of rows, where neither labels nor texts nor groups nor times say it.

    Raises:
        InputError: If there are too few rows, units or rows of a class, one class only, or the lengths differ.

    Examples:
        >>> folds = make_folds(["yes"] * 4 + ["no"] * 4, 2, groups=["ann", "ann", "bob", "bob"] * 2)
        >>> folds.fold[0] == folds.fold[1], folds.fold[0] != folds.fold[2]
        (np.True_, np.True_)
    """
    number = _number_of_rows(labels, texts, groups, times, rows)
    if count < 2 or count > number:
        raise InputError(f"{number} rows cannot be divided into {count} folds", "give at least 2 folds, and more rows")
    unit, notes = _units(number, texts, groups)
    if times is not None:
        return _by_time(times, count, unit, notes)
    row, stratum, names = _strata(labels, number, values)
    units = int(unit.max()) + 1
    if units < count:
        raise InputError(
            f"the {number} rows form only {units} groups, which cannot be divided into {count} folds",
            f"use {units} folds or fewer, or do not keep the rows together"
            if units > 1
            else "do not keep them together",
        )
    sizes = np.bincount(unit)
    members = Members(unit[row], stratum)
    if names is not None:
        notes += _check_classes(np.bincount(stratum, minlength=len(names)), members, names, count, rare)
    chosen = iterative_stratification(members, sizes, count, seed)
    return Folds(chosen[unit], count, unit, notes=(*notes, *_uneven(sizes, count)))


def _number_of_rows(labels, texts, groups, times, rows: int | None) -> int:
    given = {"labels": labels, "texts": texts, "groups": groups, "times": times}
    lengths = {name: len(value) for name, value in given.items() if value is not None}
    if rows is not None:
        lengths["rows"] = rows
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{length} {name}" for name, length in lengths.items()) or "nothing"
        raise InputError(f"folds were asked for {told}", "give one of each for every row")
    return next(iter(lengths.values()))


# Units: what is kept together.


def _units(
    number: int, texts: Sequence[str] | None, groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the unit of each row, and notes on them."""
    parent = list(range(number))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]  # path halving
            one = parent[one]
        return one

    notes: tuple[str, ...] = ()
    if groups is not None:
        first: dict[Hashable, int] = {}
        for row, group in enumerate(groups):
            if group is not None:
                parent[root(row)] = root(first.setdefault(group, row))
        notes += (f"rows of {len(first):,} groups are kept together",)
    if texts is not None:
        pairs = near_duplicates(texts)
        for pair in pairs:
            parent[root(pair.second)] = root(pair.first)
        alike = len({row for pair in pairs for row in (pair.first, pair.second)})
        if alike:
            notes += (f"{alike:,} rows that are nearly the same as another are kept together with it",)
    roots = np.array([root(row) for row in range(number)], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1], notes


def _uneven(sizes: NDArray[np.int64], count: int) -> tuple[str, ...]:
    total, largest = int(sizes.sum()), int(sizes.max())
    if largest <= 1.2 * total / count:
        return ()
    return (f"the largest group has {largest:,} of {total:,} rows, more than a fold should have: the folds are uneven",)


# Strata: of what every fold should have its share.


def _strata(
    labels: ArrayLike | Sequence[Hashable] | None, number: int, values: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str] | None]:
    """Return (row, stratum) pairs as two arrays, and the names of the strata if they are classes.

    Rows of which nothing is known are a stratum of their own, the last one.
    """
    every = np.arange(number)
    if labels is None:
        return every, np.zeros(number, dtype=np.int64), None
    if np.ndim(labels) == 2:  # pyright: ignore[reportArgumentType]
        matrix = np.nan_to_num(np.asarray(labels, dtype=np.float64)) >= 0.5
        row, stratum = np.nonzero(np.column_stack([matrix, ~matrix.any(axis=1)]))
        return row, stratum, None
    if values:
        numbers = np.asarray(labels, dtype=np.float64)
        known = np.isfinite(numbers)
        strata = np.full(number, _QUANTILES)
        ranks = np.argsort(np.argsort(numbers[known], kind="stable"), kind="stable")
        strata[known] = ranks * _QUANTILES // max(1, int(known.sum()))
        return every, strata, None
    given = [
        None if one is None or one != one else one for one in cast(Sequence[Hashable], labels)
    ]  # NaN is not equal to itself
    names = {name: place for place, name in enumerate(sorted({one for one in given if one is not None}, key=str))}
    strata = np.array([len(names) if one is None else names[one] for one in given], dtype=np.int64)
    return every, strata, [str(name) for name in names]


def _check_classes(
    rows: NDArray[np.int64], members: Members, names: list[str], count: int, rare: bool
) -> tuple[str, ...]:
    """Refuse classes of which some fold would have none, or return a note on them where they are allowed."""
    if len(names) < 2:
        which = f"{names[0]!r} is the only class" if names else "no row has a label"
        raise InputError(f"{which}, so that there is nothing to tell apart", "give rows of at least two classes")
    units = np.bincount(members.stratum, minlength=len(names))[: len(names)]
    few = np.flatnonzero(units < count)
    if not len(few):
        return ()
    few = few[np.argsort(units[few], kind="stable")]
    told = []
    for one in few[:_NAMED].tolist():
        apart = f" in {_counted(int(units[one]), 'group')} that stay together" if units[one] < rows[one] else ""
        told.append(f"{names[one]!r} has {_counted(int(rows[one]), 'row')}{apart}")
    more = f", and {len(few) - _NAMED} more classes have too few" if len(few) > _NAMED else ""
    if rare:
        return (f"{', '.join(told)}{more}: not every one of {count} folds has rows of each class",)
    fewer = f"use {units[few[0]]} folds, " if units[few[0]] > 1 else ""
    ungroup = "do not keep their rows together, " if (units[few] < rows[few]).any() else ""
    raise InputError(
        f"{', '.join(told)}{more}, which is fewer than the {count} folds",
        f"{fewer}label more rows of {'these classes' if len(few) > 1 else 'this class'}, {ungroup}merge them into "
        "another class, or leave them out",
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# Folds by time.


def _by_time(
    times: Sequence[float] | Sequence[str], count: int, unit: NDArray[np.int64], notes: tuple[str, ...]
) -> Folds:
    """Return folds of consecutive times; rows of one time are never divided."""
    moments = np.asarray(times)
    if moments.dtype == object or (moments.dtype.kind == "f" and np.isnan(moments).any()):
        raise InputError("some rows have no time", "give a time for each row, or leave these rows out")
    distinct, moment = np.unique(moments, return_inverse=True)
    if len(distinct) <= count:
        raise InputError(
            f"{len(distinct)} different times cannot be divided into {count} folds and the rows before them",
            "use fewer folds, or finer times",
        )
    # Each block ends at the time at which its share of the rows is reached, and has at least one time.
    reached = np.cumsum(np.bincount(moment)) / len(moments)
    block, border = np.zeros(len(distinct), dtype=np.int64), 0
    for number in range(count):
        border = max(border + 1, int(np.searchsorted(reached, (number + 1) / (count + 1) - 1e-9)) + 1)
        border = min(border, len(distinct) - (count - number))
        block[border:] = number + 1
    folds = Folds(block[moment] - 1, count, unit, by_time=True)
    dropped = [int((folds.fold < one).sum()) - len(folds.training(one)) for one in range(count)]
    if any(dropped):
        notes += (f"{sum(dropped):,} rows are not trained on in a fold that validates rows of their group",)
    return Folds(folds.fold, count, unit, by_time=True, notes=notes)

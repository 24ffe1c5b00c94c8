"""Iterative stratification: folds that all have their share of every label, also where rows have several.

The label of which the fewest units are left comes first, and each unit goes to the fold that lacks that label most
(Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-label Data"). With one label for each row, every
fold has its share of each class to within one unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavra.core.seeds import numpy_stream


class Members:
    """How many rows of each stratum each unit has, as the entries of a sparse matrix.

    Args:
        unit: Unit of each (row, stratum) pair, 0 to the number of units minus 1; a row may be in several strata.
        stratum: Stratum of each pair.

    Attributes:
        strata: Number of strata.
        unit: Unit of each entry, (entries,), rising.
        stratum: Stratum of each entry, (entries,).
        rows: Number of rows of the unit in the stratum, (entries,).
    """

    def __init__(self, unit: NDArray[np.int64], stratum: NDArray[np.int64]) -> None:
        self.strata = int(stratum.max()) + 1
        keys, self.rows = np.unique(unit * self.strata + stratum, return_counts=True)
        self.unit, self.stratum = keys // self.strata, keys % self.strata
        self._by_unit = np.searchsorted(self.unit, np.arange(int(self.unit.max()) + 2))
        self._order = np.argsort(self.stratum, kind="stable")
        self._by_stratum = np.searchsorted(self.stratum[self._order], np.arange(self.strata + 1))

    def of(self, unit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the strata of a unit, and how many of its rows are in each."""
        entries = slice(self._by_unit[unit], self._by_unit[unit + 1])
        return self.stratum[entries], self.rows[entries]

    def units(self, stratum: int) -> NDArray[np.int64]:
        """Return the units with rows in a stratum."""
        return self.unit[self._order[self._by_stratum[stratum] : self._by_stratum[stratum + 1]]]


def iterative_stratification(members: Members, sizes: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each unit, (units,).

    Args:
        members: The strata of the units.
        sizes: Number of rows of each unit, (units,).
        count: Number of folds.
        seed: Seed of the order of units of equal size, and of the choice between folds that lack equally much.

    Examples:
        >>> members = Members(np.arange(6), np.array([0, 0, 0, 0, 1, 1]))
        >>> folds = iterative_stratification(members, np.ones(6, dtype=int), 2, seed=0)
        >>> np.bincount(folds[:4]).tolist(), np.bincount(folds[4:]).tolist()
        ([2, 2], [1, 1])
    """
    random = numpy_stream(seed, "folds")
    totals = np.bincount(members.stratum, weights=members.rows, minlength=members.strata)
    wanted = np.tile(totals / count, (count, 1))  # rows of each stratum that each fold still lacks
    room = np.full(count, sizes.sum() / count)
    # Large units first, while there is room for them; units of one size in random order.
    turn = np.empty(len(sizes), dtype=np.int64)
    turn[np.lexsort((random.random(len(sizes)), -sizes))] = np.arange(len(sizes))
    left = np.bincount(members.stratum, minlength=members.strata).astype(np.float64)
    left[left == 0] = np.inf
    fold = np.full(len(sizes), -1)
    while np.isfinite(left.min()):
        stratum = int(np.argmin(left))
        units = members.units(stratum)
        units = units[fold[units] < 0]
        for one in units[np.argsort(turn[units])].tolist():
            # The fold that lacks this stratum most; of equal ones, that with the most room; of these, one at random.
            best = np.lexsort((random.random(count), -room, -wanted[:, stratum]))[0]
            fold[one] = best
            room[best] -= sizes[one]
            strata, rows = members.of(one)
            wanted[best, strata] -= rows
            left[strata] -= 1
        left[left <= 0] = np.inf
    return fold

"""Statistics of rows that can be computed again on thousands of resamples, or exchanges, of the rows at once.

Most metrics are functions of a few sums over rows: the F1 of a class is one of how often it is true, predicted, and
both. A resample is then one matrix product, and no row is looked at twice. Spearman's correlation is no such function,
and is computed from the counts of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lavra.evaluation.intervals import Resamples

Formula = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Function from (…, columns) sums to (…) values of a metric."""

_DENSE = 256  # columns up to which sums are one matrix product; of more, most are zero in a row


class Statistic(Protocol):
    """Metrics of one set of rows, which are computed together."""

    @property
    def units(self) -> int:
        """Number of units that are resampled or exchanged together, such as the rows with one id."""
        ...

    def values(self) -> dict[str, float]:
        """Return the metrics on all rows."""
        ...

    def resampled(self, *, draws: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Return the metrics on bootstrap resamples of the units, (draws,) each; equal seeds draw equal units."""
        ...

    def exchanged(self, other: Statistic, coins: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float64]]:
        """Return differences to `other` where the results on some units are exchanged between both, (samples,) each.

        Args:
            other: The same metrics of another model on the same units.
            coins: 1 where a unit keeps its results and 0 where they are exchanged, (samples, units), in blocks.
        """
        ...


@dataclass(frozen=True)
class Sums:
    """Metrics that are functions of sums over units.

    The contributions are given one by one, as in a sparse matrix in coordinate form; those of equal places add up.

    Attributes:
        units: Number of units.
        columns: Number of sums.
        rows: Unit of each contribution, (contributions,).
        places: Column of each contribution, (contributions,).
        amounts: The contributions, (contributions,).
        formulas: Function of the sums for each metric by its name.

    Examples:
        >>> ones = np.ones(3)
        >>> share = Sums(3, 1, np.arange(3), np.zeros(3, int), np.array([1.0, 0.0, 1.0]), {"sum": lambda s: s[..., 0]})
        >>> share.values()
        {'sum': 2.0}
    """

    units: int
    columns: int
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    amounts: NDArray[np.float64]
    formulas: Mapping[str, Formula]

    def totals(self) -> NDArray[np.float64]:
        """Return the sums over all units, (columns,)."""
        return np.bincount(self.places, weights=self.amounts, minlength=self.columns).astype(np.float64)

    def values(self) -> dict[str, float]:
        """Return the metrics on all rows."""
        totals = self.totals()
        return {name: float(formula(totals)) for name, formula in self.formulas.items()}

    def resampled(self, *, draws: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Return the metrics on bootstrap resamples of the units; see `Statistic.resampled`."""
        resamples = Resamples(self.units, draws=draws, seed=seed)
        matrix = _Matrix(resamples.unit_of()[self.rows], self.places, self.amounts, (resamples.units, self.columns))
        found = {name: np.empty(draws) for name in self.formulas}
        for first, times in resamples.blocks():
            self._evaluate(matrix.sums(times), found, first)
        return found

    def exchanged(self, other: Statistic, coins: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float64]]:
        """Return the differences where some units are exchanged; see `Statistic.exchanged`."""
        assert isinstance(other, Sums)
        ours, theirs = self.totals(), other.totals()
        # Ours with the units of zero bits exchanged is theirs plus the sum, over the bits of one, of what differs.
        matrix = _Matrix(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.places, other.places]),
            np.concatenate([self.amounts, -other.amounts]),
            (self.units, self.columns),
        )
        found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self.formulas}
        for bits in coins:
            for piece in _pieces(bits, matrix.cost):
                ones = theirs + matrix.sums(piece)
                for name, formula in self.formulas.items():
                    found[name].append(formula(ones) - formula(ours + theirs - ones))
        return {name: np.concatenate(values) for name, values in found.items()}

    def _evaluate(self, sums: NDArray[np.float64], found: dict[str, NDArray[np.float64]], first: int) -> None:
        for name, formula in self.formulas.items():
            found[name][first : first + len(sums)] = formula(sums)


class _Matrix:
    """Contributions of units to columns, multiplied by counts of units from the left."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        places: NDArray[np.int64],
        amounts: NDArray[np.float64],
        shape: tuple[int, int],
    ) -> None:
        units, self._columns = shape
        if self._columns <= _DENSE:
            flat = np.bincount(rows * self._columns + places, weights=amounts, minlength=units * self._columns)
            # Of two models that are compared, most rows do not differ, and add nothing to the difference.
            self._dense, self.cost = flat.reshape(shape), max(units, self._columns)
            self._filled = np.flatnonzero(self._dense.any(axis=1))
            self._dense = self._dense[self._filled]
            return
        self._dense = None
        keys, inverse = np.unique(places * units + rows, return_inverse=True)
        values = np.bincount(inverse, weights=amounts, minlength=len(keys))
        keys, self._values = keys[values != 0], values[values != 0]
        self._rows = keys % units
        self._filled, self._starts = np.unique(keys // units, return_index=True)
        self.cost = max(len(keys), self._columns)

    def sums(self, times: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return (draws, columns) sums from (draws, units) counts."""
        if self._dense is not None:
            some = times if len(self._filled) == times.shape[1] else times[:, self._filled]
            return some.astype(np.float64) @ self._dense
        sums = np.zeros((len(times), self._columns))
        if len(self._filled):
            for first in range(0, len(times), step := max(1, 2**22 // self.cost)):
                several = slice(first, first + step)
                drawn = times[several][:, self._rows] * self._values
                sums[several, self._filled] = np.add.reduceat(drawn, self._starts, axis=1)
        return sums


def _pieces(bits: NDArray[np.uint8], cost: int) -> Iterable[NDArray[np.uint8]]:
    """Yield the rows of a block some at a time, so that what is computed from them stays below some 32 MB."""
    step = max(1, 2**22 // max(1, cost))
    for first in range(0, len(bits), step):
        yield bits[first : first + step]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of one column: Pearson's correlation of the ranks, equal values having their mean rank.

    The ranks are those within each resample, so that the interval is exact.

    Attributes:
        units: Number of units.
        unit: Unit of each row, (rows,).
        x: True values, (rows,).
        y: Predicted values, (rows,).
        weights: Weight of each row, (rows,).
        name: Name of the metric.
    """

    units: int
    unit: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    weights: NDArray[np.float64]
    name: str = "spearman"

    def values(self) -> dict[str, float]:
        """Return the metric on all rows."""
        return {self.name: float(self._of(self.weights[None], (_Ranks(self.x), _Ranks(self.y)))[0])}

    def resampled(self, *, draws: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Return the metric on bootstrap resamples of the units; see `Statistic.resampled`."""
        resamples = Resamples(self.units, draws=draws, seed=seed)
        group, ranks = resamples.unit_of()[self.unit], (_Ranks(self.x), _Ranks(self.y))
        found: list[NDArray[np.float64]] = []
        for _, times in resamples.blocks():
            for first in range(0, len(times), step := max(1, 2**20 // len(self.x))):
                found.append(self._of(times[first : first + step, group] * self.weights, ranks))
        return {self.name: np.concatenate(found)}

    def exchanged(self, other: Statistic, coins: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float64]]:
        """Return the differences where some units are exchanged; see `Statistic.exchanged`."""
        assert isinstance(other, RankCorrelation)
        x, found = _Ranks(self.x), []
        for bits in coins:
            for kept in bits[:, self.unit]:
                one = self._of(self.weights[None], (x, _Ranks(np.where(kept, self.y, other.y))))
                two = self._of(self.weights[None], (x, _Ranks(np.where(kept, other.y, self.y))))
                found.append(float(one[0] - two[0]))
        return {self.name: np.array(found)}

    @staticmethod
    def _of(weights: NDArray[np.float64], ranks: tuple[_Ranks, _Ranks]) -> NDArray[np.float64]:
        """Return the correlation for each of (draws, rows) weights."""
        total = weights.sum(axis=1, keepdims=True)
        x, y = (one.of(weights) for one in ranks)
        x, y = (values - (weights * values).sum(axis=1, keepdims=True) / total for values in (x, y))
        products = [(weights * one * two).sum(axis=1) for one, two in ((x, y), (x, x), (y, y))]
        return correlation(*products)


@dataclass(frozen=True)
class MeanOfColumns:
    """The mean of a metric that is computed for each column.

    Attributes:
        columns: The metric of each column, on the same units; at least one.
    """

    columns: tuple[RankCorrelation, ...]

    @property
    def units(self) -> int:
        """Number of units that are resampled or exchanged together."""
        return self.columns[0].units

    def values(self) -> dict[str, float]:
        """Return the metric on all rows."""
        return {
            self.columns[0].name: float(np.mean([value for one in self.columns for value in one.values().values()]))
        }

    def resampled(self, *, draws: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Return the metric on bootstrap resamples of the units; see `Statistic.resampled`."""
        name = self.columns[0].name
        return {name: np.mean([one.resampled(draws=draws, seed=seed)[name] for one in self.columns], axis=0)}

    def exchanged(self, other: Statistic, coins: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float64]]:
        """Return the differences where some units are exchanged; see `Statistic.exchanged`."""
        assert isinstance(other, MeanOfColumns)
        name, blocks = self.columns[0].name, list(coins)
        pairs = zip(self.columns, other.columns, strict=True)
        return {name: np.mean([one.exchanged(two, blocks)[name] for one, two in pairs], axis=0)}


class _Ranks:
    """Mean ranks of values under changing weights of their rows."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._order = np.argsort(values, kind="stable")
        self._starts = np.unique(values[self._order], return_index=True)[1]
        self._group = np.empty(len(values), dtype=np.int64)
        self._group[self._order] = np.searchsorted(self._starts, np.arange(len(values)), side="right") - 1

    def of(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rank of each row, (draws, rows), for (draws, rows) weights: the weight below, and half its own."""
        masses = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        return (np.cumsum(masses, axis=1) - masses / 2)[:, self._group]


def correlation(
    products: NDArray[np.float64], x_squares: NDArray[np.float64], y_squares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return correlations from centred sums of products and squares; 0 where either side does not vary.

    A constant says nothing of the other side, and a metric that is "not a number" could be neither compared nor shown.
    """
    below = np.sqrt(np.maximum(x_squares, 0) * np.maximum(y_squares, 0))
    return np.clip(np.divide(products, below, out=np.zeros(np.shape(below)), where=below > 0), -1.0, 1.0)

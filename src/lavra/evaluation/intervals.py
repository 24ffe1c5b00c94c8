"""Bootstrap intervals over documents: how far a number would move with other documents of the same kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.seeds import numpy_stream

FEWEST_DOCUMENTS = 5
"""Smallest number of documents for which an interval is given. With fewer, the resamples are too few and too alike to
say anything about other documents."""

MOST_UNITS = 8192
"""Largest number of units that are resampled. More documents are divided at random into this many groups, and the
groups are resampled, so that time and memory stay bounded."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: The number on all documents.
        low: Lower end of the interval; None where the documents are too few for an interval.
        high: Upper end of the interval; None where the documents are too few for an interval.

    Examples:
        >>> Estimate(0.5, 0.4, 0.6).to_json()
        {'value': 0.5, 'low': 0.4, 'high': 0.6}
    """

    value: float
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return `{"value": …, "low": …, "high": …}`. A number that is not finite becomes None: JSON has no NaN."""
        return {name: _finite(getattr(self, name)) for name in ("value", "low", "high")}

    def through(self, function: Callable[[float], float]) -> Estimate:
        """Return the estimate of a function of the number.

        The ends of a percentile interval may be transformed one by one only because the function is increasing.

        Args:
            function: Increasing function, such as the exponential that turns a loss into a perplexity.

        Examples:
            >>> Estimate(2.0, 1.0, 3.0).through(lambda value: 10 * value)
            Estimate(value=20.0, low=10.0, high=30.0)
        """
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return Estimate(function(self.value), low, high)


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


class Resamples:
    """Bootstrap resamples of documents as counts, for statistics that are no functions of a few sums.

    What `resampled_sums` draws, these draw: two objects of equally many documents and one seed hold the same resamples.

    Args:
        documents: Number of documents.
        draws: Number of resamples.
        seed: Seed of the draws.

    Attributes:
        documents: Number of documents.
        draws: Number of resamples.
        units: Number of units that are resampled: the documents, or `MOST_UNITS` random groups of them.

    Examples:
        >>> [(first, times.tolist()) for first, times in Resamples(1, draws=2).blocks()]
        [(0, [[1], [1]])]
    """

    def __init__(self, documents: int, *, draws: int = 2000, seed: int = 0) -> None:
        self.documents, self.draws = documents, draws
        self.units = min(documents, MOST_UNITS)
        self._random = numpy_stream(seed, "bootstrap")
        self._order = self._random.permutation(documents) if documents > MOST_UNITS else None

    def merged(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums of each unit, (units, columns), from (documents, columns) values."""
        if self._order is None:
            return values
        return np.add.reduceat(values[self._order], self._borders(), axis=0)

    def unit_of(self) -> NDArray[np.int64]:
        """Return the unit of each document, (documents,)."""
        if self._order is None:
            return np.arange(self.documents)
        units = np.empty(self.documents, dtype=np.int64)
        units[self._order] = np.searchsorted(self._borders(), np.arange(self.documents), side="right") - 1
        return units

    def blocks(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the number of a first resample, and how often it and the next ones draw each unit, (rows, units).

        The draws can be made once only.
        """
        # A resample is a vector of counts, so that its sums are one matrix product. Several resamples are counted at
        # once by giving each its own range of numbers.
        at_once = max(1, 2**20 // max(1, self.units))
        for first in range(0, self.draws, at_once):
            rows = min(at_once, self.draws - first)
            drawn = self._random.integers(0, self.units, (rows, self.units)) + np.arange(rows)[:, None] * self.units
            yield first, np.bincount(drawn.ravel(), minlength=rows * self.units).reshape(rows, self.units)

    def _borders(self) -> NDArray[np.int64]:
        return np.linspace(0, self.documents, self.units, endpoint=False).astype(np.int64)


def resampled_sums(values: ArrayLike, *, draws: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """Draw bootstrap resamples of the documents and return the sums of each resample.

    Each resample draws as many documents as there are, with replacement (Efron 1979). Memory stays near 32 MB whatever
    the number of documents. More than `MOST_UNITS` documents are first divided at random into that many groups, whose
    sums are resampled; the width of an interval is then still known to within `1 / sqrt(2 * MOST_UNITS)`, under 1 %.

    Args:
        values: Values to sum, (documents, columns). All columns of a document are drawn together.
        draws: Number of resamples.
        seed: Seed of the draws, which depend on nothing else but the number of documents.

    Returns:
        Sums of each resample, (draws, columns) float64.

    Examples:
        Every resample of six equal documents has the same sum:

        >>> resampled_sums([[1.0, 2.0]] * 6, draws=2).tolist()
        [[6.0, 12.0], [6.0, 12.0]]
    """
    resamples = Resamples(len(np.asarray(values)), draws=draws, seed=seed)
    units = resamples.merged(np.asarray(values, dtype=np.float64))
    sums = np.empty((draws, units.shape[1]))
    for first, times in resamples.blocks():
        sums[first : first + len(times)] = times @ units
    return sums


def interval(statistics: NDArray[np.float64], documents: int, level: float = 0.95) -> tuple[float | None, float | None]:
    """Return the expanded percentile interval of a bootstrap.

    The plain percentile interval is too narrow for few documents: its spread lacks the factor `n / (n - 1)`, and it
    uses the normal distribution in place of Student's t. Hesterberg's expansion widens the percentiles to
    `Phi(-sqrt(n / (n - 1)) * t(level, n - 1))` ("What Teachers Should Know About the Bootstrap", 2015, section 5.2).
    With many documents it equals the plain percentile interval.

    Args:
        statistics: Value of the statistic on each resample, (draws,).
        documents: Number of documents that were resampled.
        level: Probability with which the interval should cover the true value.

    Returns:
        (low, high), or (None, None) with fewer than `FEWEST_DOCUMENTS` documents, because the variation within a few
        documents says nothing about other documents.

    Examples:
        >>> interval(np.linspace(0.0, 1.0, 1001), documents=1000)
        (0.02480..., 0.97519...)
    """
    if documents < FEWEST_DOCUMENTS:
        return None, None
    wanted = math.sqrt(documents / (documents - 1)) * _student_quantile((1 + level) / 2, documents - 1)
    tail = NormalDist().cdf(-wanted)
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def _student_quantile(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t by the Cornish-Fisher expansion (Abramowitz and Stegun 1964, 26.7.5).

    It is within 0.3 % of the true quantile for 95 % intervals with 4 or more degrees of freedom, which is enough here
    and spares the import of SciPy.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def ratio_estimates(
    numerator: ArrayLike, denominators: dict[str, ArrayLike], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate `sum(numerator) / sum(denominator)` for several denominators on the same resamples of documents.

    Args:
        numerator: One value for each document, (documents,), such as its negative log-likelihood in nats.
        denominators: Named values for each document, (documents,) each, such as its tokens, bytes and words. Where
            they sum to zero, the estimate is NaN and has no interval.
        level: Probability with which each interval should cover the true value.
        draws: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        An estimate for each denominator, under its name.

    Examples:
        >>> nll, tokens = [20.0, 31.0, 9.0, 12.0, 28.0], [10, 15, 5, 5, 15]
        >>> loss = ratio_estimates(nll, {"tokens": tokens})["tokens"]
        >>> loss.value, loss.low < loss.value < loss.high
        (2.0, True)
    """
    above = np.asarray(numerator, dtype=np.float64)
    columns = np.column_stack([above, *(np.asarray(below, dtype=np.float64) for below in denominators.values())])
    totals = columns.sum(axis=0)
    sums = resampled_sums(columns, draws=draws, seed=seed) if len(columns) >= FEWEST_DOCUMENTS else totals[None]
    estimates = {}
    for column, name in enumerate(denominators, start=1):
        if totals[column] == 0:
            estimates[name] = Estimate(math.nan)
            continue
        usable = sums[sums[:, column] > 0]
        low, high = interval(usable[:, 0] / usable[:, column], len(columns), level)
        estimates[name] = Estimate(float(totals[0] / totals[column]), low, high)
    return estimates

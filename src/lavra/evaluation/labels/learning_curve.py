"""The learning curve: how a metric grows with the number of labels, and what more labels would bring.

The error falls as a power of the number of labels, `error(n) = floor + scale * n^-power` (Cortes et al. 1994; Hestness
et al. 2017). A few sizes admit many such curves, and the best of them says nothing of the others. So curves are drawn
in proportion to how well they go through the scores, for resamples of the rows that were measured and for the noise
that another choice of labels to learn from makes. The intervals are those of what all these curves say.

They are for rows like those that were learned. A curve that is followed far beyond its last size says little: the
interval grows, and may still be too narrow where the error follows no such law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.errors import InputError
from lavra.core.seeds import numpy_stream
from lavra.evaluation.intervals import Estimate, interval
from lavra.evaluation.labels.joining import aligned
from lavra.evaluation.labels.metrics import SMALLER_IS_BETTER, known_statistics
from lavra.evaluation.labels.predictions import Predictions

FEWEST_SIZES = 3
"""Smallest number of sizes through which a curve is drawn."""

_POWERS = np.linspace(0.02, 1.5, 38)  # from almost no gain to faster than any text data is known to bring
_FLOORS = np.linspace(0.0, 1.0, 26)  # share of the error with most labels that no number of labels takes away

_PARAMETERS = 3  # of a curve: floor, scale and power

_LAWLESS = 0.05
"""How far real learning curves lie off the law of a power, as a share of the error with most labels."""

_PRIOR = 3.0
"""Number of residuals that the first guess of the noise counts as much as: with four sizes and three parameters, one
residual is left, which is small by chance as often as not."""


@dataclass(frozen=True)
class LearningCurve:
    """A curve of one metric, with other curves that go through the scores about as well.

    Attributes:
        metric: Name of the metric.
        sizes: Numbers of labels, rising, (m,).
        scores: Metric at each size, with its interval.
        rows: Number of rows, or ids, on which it was measured.
        labels: Number of labels that there are, from which on more are counted.
        curves: Floor, scale and power of the curve in the middle, (3,) in the first row, and of each curve that was
            drawn, (1 + draws, 3).
        noise: Distance of the error with other labels to learn from, for each curve, (1 + draws,); 0 in the first row.
        deviation: Standard deviation of the error that is measured on one row, over the draw of the row.
    """

    metric: str
    sizes: NDArray[np.float64]
    scores: tuple[Estimate, ...]
    rows: int
    labels: int
    curves: NDArray[np.float64] = field(repr=False)
    noise: NDArray[np.float64] = field(repr=False)
    deviation: float = 0.0

    def at(self, labels: float, *, rows: int | None = None, level: float = 0.95) -> Estimate:
        """Return what the curve says of a model that learns from a number of labels, with its interval.

        Args:
            labels: Number of labels.
            rows: Number of rows, like those that were learned, on which the model will be measured: the fewer, the
                more a score differs by chance. None for the score on very many rows.
            level: Probability with which the interval should hold the score.
        """
        errors = self._errors(labels) + self.noise
        if rows is not None:
            chance = self.deviation / math.sqrt(max(1, rows))
            errors[1:] += chance * numpy_stream(0, "rows of a forecast").normal(size=len(errors) - 1)
        values = self._score(errors)
        return Estimate(float(values[0]), *interval(values[1:], self.rows, level))

    def more(self, labels: int, *, level: float = 0.95) -> Estimate:
        """Return by how much the metric would become better with this many labels more; never negative.

        Args:
            labels: Number of labels beyond those that there are.
            level: Probability with which the interval should hold the gain.
        """
        gains = self._errors(self.labels) - self._errors(self.labels + labels)
        return Estimate(float(gains[0]), *interval(gains[1:], self.rows, level))

    def sentence(self, labels: int) -> str:
        """Return what more labels would bring, such as "500 more labels would bring +0.8 points [+0.2, +1.7]"."""
        gain = self.more(labels)
        percent = [None if end is None else 100 * end for end in (gain.value, gain.low, gain.high)]
        if self.metric in SMALLER_IS_BETTER:
            shown, unit = [None if end is None else f"-{end / 100:.3g}" for end in percent], f" in {self.metric}"
        else:
            shown, unit = [None if end is None else f"+{end:.1f}" for end in percent], " points"
        ends = "" if shown[1] is None else f" [{shown[1]}, {shown[2]}]"
        return f"{labels:,} more labels would bring {shown[0]}{unit}{ends}"

    def to_json(self) -> dict[str, Any]:
        """Return the sizes, the scores and the fitted curve as plain values."""
        floor, scale, power = self.curves[0].tolist()
        points = [{"labels": int(size), **score.to_json()} for size, score in zip(self.sizes, self.scores, strict=True)]
        return {"metric": self.metric, "points": points, "floor": floor, "scale": scale, "power": power}

    def _errors(self, labels: float) -> NDArray[np.float64]:
        floor, scale, power = self.curves.T
        return floor + scale * labels**-power

    def _score(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        errors = np.maximum(errors, 0.0)
        return errors if self.metric in SMALLER_IS_BETTER else 1 - errors


def learning_curve(
    sizes: Sequence[float],
    tables: Sequence[Predictions],
    metric: str,
    *,
    labels: int | None = None,
    draws: int = 500,
    seed: int = 0,
) -> LearningCurve:
    """Fit a learning curve to the predictions of models that were trained on growing parts of the rows.

    Args:
        sizes: Number of labels that each model learned from, at least three different ones.
        tables: Predictions of each model for the same rows, such as those out of fold or of a validation set.
        metric: Name of the metric.
        labels: Number of labels that there are; the largest of the sizes if None.
        draws: Number of bootstrap resamples of the rows.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If there are fewer than three sizes, or the tables do not fit each other or the metric.
    """
    if len(sizes) != len(tables) or len(set(sizes)) < FEWEST_SIZES or min(sizes) <= 0:
        raise InputError(
            f"no learning curve goes through the sizes {list(sizes)} with {len(tables)} tables",
            f"train on at least {FEWEST_SIZES} different numbers of labels, such as a quarter, a half and all",
        )
    order = np.argsort(np.asarray(sizes, dtype=np.float64), kind="stable")
    ordered = [tables[place] for place in order]
    found = [known_statistics(table, None, (metric,))[0] for table in aligned(ordered)]
    values = np.array([one.values()[metric] for one in found])
    resampled = np.column_stack([one.resampled(draws=draws, seed=seed)[metric] for one in found])
    rising, rows = np.asarray(sizes, dtype=np.float64)[order], found[0].units
    return fit_curve(rising, values, resampled, metric, rows, labels=labels, seed=seed)


def fit_curve(
    sizes: ArrayLike,
    values: ArrayLike,
    resampled: NDArray[np.float64],
    metric: str,
    rows: int,
    *,
    labels: int | None = None,
    seed: int = 0,
) -> LearningCurve:
    """Fit a learning curve to the values of a metric.

    Args:
        sizes: Number of labels of each value, rising, (m,).
        values: The metric, (m,).
        resampled: The metric on resamples of the rows, the same for every size, (draws, m).
        metric: Name of the metric, which says whether smaller is better.
        rows: Number of rows that were resampled.
        labels: Number of labels that there are; the largest of the sizes if None.
        seed: Seed of the draws.

    Examples:
        >>> sizes = np.array([100, 200, 400, 800])
        >>> scores = 1 - (0.05 + 2 * sizes**-0.5)
        >>> curve = fit_curve(sizes, scores, np.tile(scores, (50, 1)), "accuracy", rows=500)
        >>> round(curve.at(1600).value, 2), round(curve.more(800).value, 2)
        (0.9, 0.02)
    """
    numbers, metric_values = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    every = np.concatenate([metric_values[None], resampled])
    errors = every if metric in SMALLER_IS_BETTER else 1 - every
    known = int(numbers[-1] if labels is None else labels)
    random = numpy_stream(seed, "learning curve")
    noise = _noise(numbers, errors, random)
    lawless = _LAWLESS * errors[0, -1]
    curves = _drawn(numbers, errors[1:], np.sqrt(noise**2 + lawless**2), random)
    middle = _middle(curves, np.array([*numbers, known, 2 * known]))
    scores = tuple(
        Estimate(float(value), *interval(column, rows))
        for value, column in zip(metric_values, resampled.T, strict=True)
    )
    return LearningCurve(
        metric,
        numbers,
        scores,
        rows,
        known,
        np.concatenate([curves[middle][None], curves]),
        np.concatenate([[0.0], noise * random.normal(size=len(noise))]),
        deviation=float(errors[1:, -1].std() * math.sqrt(rows)),
    )


def _shapes(sizes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the power and the floor of each admissible curve, (shapes,), and its errors at the sizes as shares of the
    error at the largest one, (shapes, m)."""
    power, floor = (grid.ravel() for grid in np.meshgrid(_POWERS, _FLOORS, indexing="ij"))
    return power, floor, floor[:, None] + (1 - floor[:, None]) * (sizes / sizes[-1]) ** -power[:, None]


def _squares(errors: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the error at the largest size with which each shape is nearest to (draws, m) errors, and the sum of the
    squares of its distances, both (draws, shapes)."""
    norms = (shares**2).sum(axis=1)
    products = errors @ shares.T
    return products / norms, np.maximum((errors**2).sum(axis=1)[:, None] - products**2 / norms, 0.0)


def _noise(sizes: NDArray[np.float64], errors: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Return the standard deviation of the noise of a size in each draw, (draws,).

    It is guessed by how much the difference of two sizes changes with the rows that are measured, and from the
    distances of the scores, the first row of the errors, from the nearest curve. A scaled inverse chi-squared
    distribution holds how little these few numbers say.
    """
    apart = np.diff(errors[1:], axis=1).std(axis=0)
    guess = float(np.sqrt((apart**2).mean() / 2))
    left = max(0, len(sizes) - _PARAMETERS)
    least = float(_squares(errors[:1], _shapes(sizes)[2])[1].min())
    freedom = _PRIOR + left
    scale = (_PRIOR * guess**2 + least) / freedom
    drawn = np.sqrt(scale * freedom / random.chisquare(freedom, size=len(errors) - 1))
    return np.maximum(drawn, 1e-9)


def _drawn(
    sizes: NDArray[np.float64], errors: NDArray[np.float64], noise: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """Return floor, scale and power, (draws, 3), of a curve for each row of (draws, m) errors.

    Every shape of a grid is as probable as its distance from the errors makes it, with the noise of the draw. Its error
    at the largest size is then drawn, too, from the normal distribution that a linear regression gives it.
    """
    power, floor, shares = _shapes(sizes)
    nearest, squares = _squares(errors, shares)
    norms = (shares**2).sum(axis=1)
    likelihood = -squares / (2 * noise[:, None] ** 2) - np.log(norms) / 2
    chances = np.exp(likelihood - likelihood.max(axis=1, keepdims=True)).cumsum(axis=1)
    wanted = random.random(len(errors)) * chances[:, -1]
    chosen = np.minimum((chances < wanted[:, None]).sum(axis=1), len(power) - 1)
    spread = noise / np.sqrt(norms[chosen])
    last = np.maximum(nearest[np.arange(len(errors)), chosen] + spread * random.normal(size=len(errors)), 0.0)
    scale = last * (1 - floor[chosen]) * sizes[-1] ** power[chosen]
    return np.column_stack([last * floor[chosen], scale, power[chosen]])


def _middle(curves: NDArray[np.float64], sizes: NDArray[np.float64]) -> int:
    """Return the index of the curve that is nearest to the median of all curves at some sizes."""
    floor, scale, power = (column[:, None] for column in curves.T)
    errors = floor + scale * sizes**-power
    return int(((errors - np.median(errors, axis=0)) ** 2).sum(axis=1).argmin())

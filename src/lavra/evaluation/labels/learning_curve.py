"""The learning curve: how a metric grows with the number of labels, and what more labels would bring.

The error falls as a power of the number of labels, `error(n) = floor + scale * n^-power` (Cortes et al. 1994; Hestness
et al. 2017). It is fitted to models that were trained on growing parts of the rows and measured on the same rows. Its
interval holds what other rows to measure on would change, and how far the sizes lie off the curve. A curve that is
followed far beyond its last size says little: the interval grows, and may still be too narrow.
"""

from __future__ import annotations

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

_WITH_FLOOR = 4  # sizes from which on the floor is fitted too; with fewer it is zero
_POWERS = np.linspace(0.02, 1.5, 75)  # from almost no gain to faster than any text data is known to bring


@dataclass(frozen=True)
class LearningCurve:
    """A curve of one metric, with curves for other rows that might have been measured.

    Attributes:
        metric: Name of the metric.
        sizes: Numbers of labels, rising, (m,).
        scores: Metric at each size, with its interval.
        rows: Number of rows, or ids, on which it was measured.
        labels: Number of labels that there are, from which on more are counted.
        curves: Floor, scale and power of the curve, (3,) in the first row, and of each resample, (1 + draws, 3).
        noise: Distance of each curve from the true one at sizes that were not seen, (1 + draws,); 0 in the first row.
    """

    metric: str
    sizes: NDArray[np.float64]
    scores: tuple[Estimate, ...]
    rows: int
    labels: int
    curves: NDArray[np.float64] = field(repr=False)
    noise: NDArray[np.float64] = field(repr=False)

    def at(self, labels: float) -> Estimate:
        """Return what the curve says of a number of labels, with a 95 % interval."""
        values = self._score(self._errors(labels) + self.noise)
        return Estimate(float(values[0]), *interval(values[1:], self.rows))

    def more(self, labels: int) -> Estimate:
        """Return by how much the metric would become better with this many labels more; never negative.

        Args:
            labels: Number of labels beyond those that there are.
        """
        gains = self._errors(self.labels) - self._errors(self.labels + labels)
        return Estimate(float(gains[0]), *interval(gains[1:], self.rows))

    def sentence(self, labels: int) -> str:
        """Return what more labels would bring, such as "500 more labels would bring +0.8 points [+0.4, +1.3]"."""
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
        seed: Seed of the noise that stands for the distance of the sizes from the curve.

    Examples:
        >>> sizes = np.array([100, 200, 400, 800])
        >>> scores = 1 - (0.05 + 2 * sizes**-0.5)
        >>> curve = fit_curve(sizes, scores, np.tile(scores, (50, 1)), "accuracy", rows=500)
        >>> round(curve.at(1600).value, 3), curve.sentence(800)
        (0.9, '800 more labels would bring +2.1 points [+2.1, +2.1]')
    """
    numbers, metric_values = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    every = np.concatenate([metric_values[None], resampled])
    errors = every if metric in SMALLER_IS_BETTER else 1 - every
    curves = _fitted(numbers, errors)
    parameters = 3 if len(numbers) >= _WITH_FLOOR else 2
    floor, scale, power = curves[0]
    distance = errors[0] - (floor + scale * numbers**-power)
    spread = float(np.sqrt((distance**2).sum() / max(1, len(numbers) - parameters)))
    noise = spread * numpy_stream(seed, "learning curve").normal(size=len(curves))
    noise[0] = 0.0
    scores = tuple(
        Estimate(float(value), *interval(column, rows))
        for value, column in zip(metric_values, resampled.T, strict=True)
    )
    return LearningCurve(metric, numbers, scores, rows, int(numbers[-1] if labels is None else labels), curves, noise)


def _fitted(sizes: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return floor, scale and power, (curves, 3), of the curves nearest to (curves, m) errors.

    For each power of a grid, floor and scale are a linear regression, of which neither may be negative.
    """
    best = np.full(len(errors), np.inf)
    found = np.zeros((len(errors), 3))
    for power in _POWERS:
        x = sizes**-power
        through_zero = (errors @ x) / (x @ x)
        options = [(np.zeros(len(errors)), through_zero), (errors.mean(axis=1), np.zeros(len(errors)))]
        if len(sizes) >= _WITH_FLOOR:
            centred = x - x.mean()
            slope = (errors @ centred) / (centred @ centred)
            floor = errors.mean(axis=1) - slope * x.mean()
            inside = (slope >= 0) & (floor >= 0)
            options.append((np.where(inside, floor, 0.0), np.where(inside, slope, through_zero)))
        for floor, scale in options:
            floor, scale = np.maximum(floor, 0.0), np.maximum(scale, 0.0)
            squared = ((floor[:, None] + scale[:, None] * x - errors) ** 2).sum(axis=1)
            better = squared < best - 1e-15
            best = np.where(better, squared, best)
            found[better] = np.column_stack([floor, scale, np.full(len(errors), power)])[better]
    return found

"""Learning curves: of one run while it runs, and of fine-tuning over the amount of data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lavra.core.seeds import numpy_stream
from lavra.planning.scaling_law.law import HUBER, Interval, Law
from lavra.training.optimizers.schedules import Schedule

EARLIEST = 0.2
"""Share of the run before which its curve says less than the law alone."""

_SHORT, _LONG = 0.03, -0.04
"""Bounds of the drift, as a logarithm: short runs end above where their middle points to, long ones below."""

_DRIFT = 0.024, 0.0175, 60.0
"""Drift from the beginning of the cooldown to the end of wsd runs: first - second x ln(steps / third), fitted to the
curves of some sixty runs of 140 to 6,000 steps (see the lab notebook). What comes before adds nothing to it."""

_SPREAD = 0.02, 0.02
"""Standard deviation of the error at the beginning of the cooldown, and what is added to it per share of the run before
it; it shrinks in proportion to what is left of the cooldown."""

_LEAST_SPREAD = 0.002


@dataclass(frozen=True)
class CurvePoint:
    """One validation of the run.

    Attributes:
        step: steps done.
        text_bytes: effective bytes learned from.
        bits_per_byte: on the held-out windows of the run.
    """

    step: int
    text_bytes: float
    bits_per_byte: float


def forecast_from_curve(
    points: Sequence[CurvePoint],
    *,
    law: Law,
    parameters: float,
    steps: int,
    text_bytes: float,
    schedule: Schedule,
    start: float = math.inf,
) -> Interval | None:
    """Return the bits per byte that the last validation will show, with the interval of nine in ten.

    Args:
        points: the validations so far, in order.
        law: any law of the right form; a constant factor of its own does not matter.
        parameters: of the model, in matrix products.
        steps: of the whole run.
        text_bytes: effective bytes that the whole run learns from.
        schedule: of the learning rate.
        start: bits per byte before the first step, of a run that began from counts of pairs of tokens.

    Returns:
        None before `EARLIEST`, where only the law knows.
    """
    if not points or points[-1].step < EARLIEST * steps:
        return None
    last = points[-1]
    if last.step >= steps:
        return Interval(last.bits_per_byte, last.bits_per_byte, last.bits_per_byte)
    left = _left(last.step / steps, schedule)
    first, second, third = _DRIFT
    drift = min(_SHORT, max(_LONG, first - second * math.log(steps / third)))
    ahead = math.log(law.loss(parameters, text_bytes, start) / law.loss(parameters, last.text_bytes, start))
    value = last.bits_per_byte * math.exp(ahead + drift * min(1.0, left))
    deviation = max(_LEAST_SPREAD, _SPREAD[0] * min(1.0, left) + _SPREAD[1] * max(0.0, left - 1.0))
    return Interval(value, value * math.exp(-1.645 * deviation), value * math.exp(1.645 * deviation))


def _left(done: float, schedule: Schedule) -> float:
    """Return how much of the fall of the learning rate is to come: 1 at its beginning, more before, 0 at the end."""
    begin = 1.0 - schedule.cooldown if schedule.shape == "wsd" else 0.0
    if done <= begin:
        return 1.0 + (begin - done) / max(begin, 1e-9)
    return (1.0 - done) / max(1e-9, 1.0 - begin)


# The learning curve of fine-tuning over the amount of data: the rectified scaling law (Lin et al. 2024, 2402.02314).
#
# L(D) = B / (D_l + D^β) + E: data that the model has "seen already" in its first training, D_l, flattens the
# beginning,
# which a plain power law cannot.


@dataclass(frozen=True)
class RectifiedLaw:
    """A fitted learning curve.

    Attributes:
        samples: (draws, 4) logarithms of B, D_l, β and E: the best first, then those of the bootstrap.
        noise: standard deviation of the logarithm of one loss around the curve.
    """

    samples: tuple[tuple[float, ...], ...]
    noise: float

    @property
    def constants(self) -> dict[str, float]:
        """B, D_l, beta and E of the best fit."""
        values = np.exp(self.samples[0])
        return dict(zip(("B", "D_l", "beta", "E"), map(float, values), strict=True))

    def loss(self, examples: float) -> float:
        """Return the loss to expect after learning from that many examples (or tokens, as in the fit)."""
        return float(np.exp(_curve(np.array(self.samples[:1]), np.log([examples])))[0, 0])

    def forecast(self, examples: float, seed: int = 0) -> Interval:
        """Return the loss to expect, with the interval of nine in ten."""
        logs = _curve(np.array(self.samples), np.log([examples]))[:, 0]
        logs[1:] += numpy_stream(seed, "forecast").standard_normal(len(logs) - 1) * self.noise
        low, high = np.quantile(logs[1:], (0.05, 0.95))
        best = logs[0]
        return Interval(float(np.exp(best)), float(np.exp(min(low, best))), float(np.exp(max(high, best))))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"constants": self.constants}


def fit_rectified(sizes: Sequence[float], losses: Sequence[float], *, draws: int = 100, seed: int = 0) -> RectifiedLaw:
    """Fit the curve to losses on held-out data after fine-tuning on subsets of several sizes.

    Args:
        sizes: of the subsets, in examples or tokens; at least four different ones.
        losses: reached with each.
        draws: of the bootstrap.
        seed: of its luck.

    Raises:
        ValueError: with fewer than four sizes, or for a number that is not positive.
    """
    if len(set(sizes)) < 4:
        raise ValueError("a learning curve needs at least four sizes of subsets")
    if min(*sizes, *losses) <= 0:
        raise ValueError("sizes and losses must be positive")
    amounts, logs = np.log(np.asarray(sizes, float)), np.log(np.asarray(losses, float))
    centre, width = _prior(amounts, logs)
    generator = numpy_stream(seed, "rectified")
    starts = centre + width * generator.standard_normal((64, 4))
    fits, costs = _minimise(starts, amounts, np.tile(logs, (64, 1)), centre, width)
    best = fits[np.argmin(costs)]
    residuals = logs - _curve(best[None], amounts)[0]
    noise = max(0.003, float(np.sqrt((residuals**2).sum() / max(1, len(logs) - 4))))
    drawn = _curve(best[None], amounts) + noise * generator.standard_normal((draws, len(logs)))
    centres = centre + width * generator.standard_normal((draws, 4))
    sampled, _ = _minimise(np.tile(best, (draws, 1)), amounts, drawn, centres, width)
    return RectifiedLaw(tuple(tuple(map(float, row)) for row in np.vstack([best[None], sampled])), noise)


def _prior(amounts: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a wide belief about the four logarithms: β about 0.4, D_l about half-way, E below the lowest loss."""
    power = 0.4
    middle = power * float(np.mean(amounts))
    drop = max(1e-3, float(np.exp(logs.max()) - np.exp(logs.min())))
    return (
        np.array([middle + np.log(2 * drop), middle, np.log(power), float(logs.min()) - 0.3]),
        np.array([2.5, 2.5, 0.5, 0.5]),
    )


def _curve(fits: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Return the (fits, points) logarithms of the loss."""
    below = np.logaddexp(fits[:, 1:2], np.exp(fits[:, 2:3]) * amounts[None, :])
    return np.logaddexp(fits[:, 0:1] - below, fits[:, 3:4])


def _minimise(
    fits: np.ndarray, amounts: np.ndarray, logs: np.ndarray, centre: np.ndarray, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise Huber's loss of many fits at once, by Levenberg and Marquardt with numerical derivatives."""
    precision, damping = 1.0 / width**2, np.full(len(fits), 1e-2)

    def cost(values: np.ndarray) -> np.ndarray:
        size = np.abs(logs - _curve(values, amounts)) / HUBER
        huber = np.where(size <= 1.0, 0.5 * size**2, size - 0.5)
        return huber.sum(1) + 0.5 * (precision * (values - centre) ** 2).sum(1)

    costs = cost(fits)
    for _ in range(100):
        now = _curve(fits, amounts)
        jacobian = np.stack([(_curve(fits + step, amounts) - now) / 1e-5 for step in 1e-5 * np.eye(4)], axis=-1)
        residuals = logs - now
        trust = np.minimum(1.0, HUBER / np.maximum(np.abs(residuals), 1e-12)) / HUBER**2
        normal = np.einsum("fpi,fp,fpj->fij", jacobian, trust, jacobian) + np.diag(precision)
        slope = np.einsum("fpi,fp->fi", jacobian, trust * residuals) + precision * (centre - fits)
        scale = damping[:, None, None] * np.einsum("fii->fi", normal)[:, :, None] * np.eye(4)
        moved = fits + np.clip(np.linalg.solve(normal + scale, slope[:, :, None])[:, :, 0], -2.0, 2.0)
        tried = cost(moved)
        better = tried < costs
        fits, costs = np.where(better[:, None], moved, fits), np.where(better, tried, costs)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
    return fits, costs

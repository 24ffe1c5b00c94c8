"""Learning curves: extrapolation of the loss of a run in progress, and of fine-tuning to more data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lavra.core.seeds import numpy_stream
from lavra.planning.scaling_law.law import HUBER, Interval, ScalingLaw
from lavra.training.optimizers.schedules import Schedule

EARLIEST = 0.2
"""Share of the run before which its own curve predicts worse than the scaling law alone."""

_SHORT = 0.03
"""Bounds of the drift as a log ratio: short runs end above what the middle of their curve predicts, long ones below."""
_LONG = -0.04

_DRIFT = 0.024, 0.0175, 60.0
"""Drift (a, b, c), the change of the log loss relative to the law from the start of the learning-rate decay to the end
of a wsd run: a - b x ln(steps / c). Fitted to the curves of some sixty runs of 140 to 6,000 steps (see the lab
notebook). Before the decay there is no drift."""

_SPREAD = 0.02, 0.02
"""Standard deviation of the error of the log loss at the start of the decay, and what is added to it for each share of
the constant phase that is still to come. It shrinks in proportion to the rest of the decay."""

_LEAST_SPREAD = 0.002
"""Lower limit of that standard deviation, since validations themselves scatter."""


@dataclass(frozen=True)
class CurvePoint:
    """One validation of a run.

    Attributes:
        step: Number of steps done.
        text_bytes: Effective bytes of text trained on so far.
        bits_per_byte: Validation loss in bits per byte.
    """

    step: int
    text_bytes: float
    bits_per_byte: float


def forecast_from_curve(
    points: Sequence[CurvePoint],
    *,
    law: ScalingLaw,
    parameters: float,
    steps: int,
    text_bytes: float,
    schedule: Schedule,
    start: float = math.inf,
) -> Interval | None:
    """Return the forecast of the last validation of a run in progress, in bits per byte, with its 90 % interval.

    The last measured loss is multiplied by the ratio of the law at the end of the run to the law now, and by the drift
    that past runs show during the learning-rate decay.

    Args:
        points: The validations so far, in order.
        law: Scaling law; only ratios of its values are used, so a constant factor does not matter.
        parameters: Number of parameters of the model that take part in matrix products.
        steps: Number of steps of the whole run.
        text_bytes: Effective bytes of text that the whole run trains on.
        schedule: Learning-rate schedule.
        start: Bits per byte before the first step of a run with a warm start; infinite without one.

    Returns:
        The interval; None before the share `EARLIEST` of the run, where the law alone predicts better.
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
    """Return the share of the learning-rate decay that is to come: 1 at its start, up to 2 before it, 0 at the end."""
    begin = 1.0 - schedule.decay_fraction if schedule.shape == "wsd" else 0.0
    if done <= begin:
        return 1.0 + (begin - done) / max(begin, 1e-9)
    return (1.0 - done) / max(1e-9, 1.0 - begin)


# Fine-tuning over the amount of data: the rectified scaling law (Lin et al. 2024, arXiv 2402.02314).
#
# L(D) = B / (D_l + D^β) + E. The term D_l, the "pre-learned data size" of the pretrained model, flattens the start of
# the curve, which a plain power law cannot.


@dataclass(frozen=True)
class RectifiedLaw:
    """A fitted learning curve of fine-tuning: the rectified scaling law.

    Attributes:
        samples: (1 + draws, 4) logarithms of B, D_l, β and E: the best fit first, then the bootstrap samples.
        noise: Standard deviation of the log of a single loss around the curve.
    """

    samples: tuple[tuple[float, ...], ...]
    noise: float

    @property
    def constants(self) -> dict[str, float]:
        """The constants `B`, `D_l`, `beta` and `E` of the best fit, by name."""
        values = np.exp(self.samples[0])
        return dict(zip(("B", "D_l", "beta", "E"), map(float, values), strict=True))

    def loss(self, examples: float) -> float:
        """Return the expected loss after training on that many examples (or tokens, as in the fit)."""
        return float(np.exp(_curve(np.array(self.samples[:1]), np.log([examples])))[0, 0])

    def forecast(self, examples: float, seed: int = 0) -> Interval:
        """Return the expected loss, with its 90 % interval.

        Args:
            examples: Number of examples (or tokens, as in the fit).
            seed: Seed of the noise that is added to the bootstrap samples.
        """
        logs = _curve(np.array(self.samples), np.log([examples]))[:, 0]
        logs[1:] += numpy_stream(seed, "forecast").standard_normal(len(logs) - 1) * self.noise
        low, high = np.quantile(logs[1:], (0.05, 0.95))
        best = logs[0]
        return Interval(float(np.exp(best)), float(np.exp(min(low, best))), float(np.exp(max(high, best))))

    def to_json(self) -> dict[str, Any]:
        """Return the curve as JSON values, with the constants of the best fit."""
        return asdict(self) | {"constants": self.constants}


def fit_rectified(sizes: Sequence[float], losses: Sequence[float], *, draws: int = 100, seed: int = 0) -> RectifiedLaw:
    """Fit the rectified scaling law to validation losses after fine-tuning on subsets of several sizes, and return it.

    Args:
        sizes: Sizes of the subsets in examples or tokens; at least four different ones.
        losses: Validation loss that was reached with each subset.
        draws: Number of bootstrap samples.
        seed: Seed of the starting points and of the bootstrap.

    Raises:
        ValueError: if there are fewer than four different sizes, or a number is not positive.

    Examples:
        >>> curve = fit_rectified([100, 1000, 10000, 100000], [3.0, 2.6, 2.2, 2.0], draws=10)
        >>> curve.loss(1e6) < 2.0
        True
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
    """Return means and deviations of a wide prior: β near 0.4, D_l within the data, E below the smallest loss."""
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
    """Return the minima and costs of many fits at once: Levenberg-Marquardt on reweighted squares (IRLS).

    The cost is the Huber loss of the log losses plus the prior; derivatives are finite differences. See `_minimise` in
    `lavra.planning.scaling_law.law` for the method.
    """
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

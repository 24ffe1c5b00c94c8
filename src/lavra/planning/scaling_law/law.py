"""The scaling law: the loss that a model of N parameters reaches on D bytes of text, with its uncertainty.

L(N, D) = E + A·N^-α + B·D^-β (Hoffmann et al. 2022, arXiv 2203.15556, approach 3), in bits per byte of the original
text, so that the tokenizer does not matter. D is the effective amount of text: repeated text counts for less
(`lavra.planning.budget.worth`). Losses before the learning-rate decay, in the constant phase of a wsd schedule, lie
above the law by a factor that is fitted along with the law, so that one run gives several points (arXiv 2405.18392).

A run with a warm start from bigram counts is better than the law at first, and follows it once the law has come down to
the loss S of that start. Its loss is modelled as a smooth minimum of the two, (L^-q + S^-q)^(-1/q).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lavra.core.seeds import numpy_stream

HUBER = 1e-2
"""Threshold of the Huber loss on residuals of the log loss: larger residuals count linearly, so that one diverged run
does not distort the law. Hoffmann et al. take 1e-3; the short runs here scatter by about a hundredth."""

FAR = 10.0
"""Factor by which N x D must exceed that of the largest run for a forecast to be called an extrapolation."""

FORM = 0.02
"""Model error in extrapolation: standard deviation of the log loss for each factor of ten by which N x D exceeds that
of the largest run. The three terms describe the runs that the law was fitted to; beyond them its form is an
assumption."""


SHARPNESS = 30.0
"""Exponent q of the smooth minimum: where L = S, the loss is 2 % below both. Fits to some sixty runs gave 18 to 41."""


@dataclass(frozen=True)
class Observation:
    """One measured loss, to which the law is fitted.

    Attributes:
        parameters: N, the number of parameters that take part in matrix products, including the head.
        text_bytes: D, the effective bytes of text trained on.
        bits_per_byte: Validation loss in bits per byte.
        cooled: Whether the learning rate had decayed; if not, the loss lies above the law.
        run: Name of the run. Points of one run have correlated errors, so they are resampled together. Empty for a
            point that is a run of its own.
        weight: Weight of the point in the fit.
        start: Bits per byte before the first step of a run with a warm start from bigram counts; infinite without one.
    """

    parameters: float
    text_bytes: float
    bits_per_byte: float
    cooled: bool = True
    run: str = ""
    weight: float = 1.0
    start: float = math.inf


@dataclass(frozen=True)
class Prior:
    """Prior distribution of the six parameters of the fit: independent normal distributions.

    The parameters are, in this order: log E; log of A·(10^6)^-α; α; log of B·(10^7)^-β; β; and the log of the factor
    for losses before the learning-rate decay.

    Attributes:
        means: The six means.
        deviations: The six standard deviations.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]


WIDE = Prior((-0.6, -0.7, 0.34, -0.7, 0.37, 0.05), (0.2, 1.2, 0.12, 1.2, 0.12, 0.05))
"""Default prior. Exponents and irreducible loss are centred on those of Hoffmann et al. 2022 and Besiroglu et al. 2024
(0.35 and 0.37; 1.7 to 1.8 nats per token, about 0.55 bits per byte); the two reducible terms are some tenths of a bit
at a million parameters and ten megabytes. Short runs alone do not identify the irreducible loss: fitted without a
prior, they claim that no model ever gets below 1.1 bits per byte."""

_SIZE = 1e6
"""Reference point (parameters, bytes) at which the fit measures the two reducible terms: there they are far less
correlated with the exponents than at N = D = 1."""
_TEXT = 1e7


@dataclass(frozen=True)
class Interval:
    """An estimate with its 90 % interval.

    Attributes:
        value: Best estimate.
        low: Lower end: the 5 % quantile.
        high: Upper end: the 95 % quantile.

    Examples:
        >>> Interval(2.0, 1.5, 2.5).scaled(2.0)
        Interval(value=4.0, low=3.0, high=5.0)
    """

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """Return the interval with all three values multiplied by `factor`, i.e. in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def to_json(self) -> dict[str, float]:
        """Return the interval as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted scaling law.

    Attributes:
        samples: (1 + draws, 6) parameters as in `Prior`: the best fit first, then the bootstrap samples.
        noise: Standard deviation of the log loss of a single run around the law.
        runs: Number of runs that the law was fitted to.
        origin: What the law was fitted to, in words.
        reach: Largest N x D among the runs; 0 if it is not known. Forecasts beyond it have wider intervals.
    """

    samples: tuple[tuple[float, ...], ...]
    noise: float
    runs: int
    origin: str = ""
    reach: float = 0.0

    @property
    def constants(self) -> dict[str, float]:
        """The constants of the best fit by name: `E`, `A`, `alpha`, `B`, `beta`, and the factor `before_cooldown`."""
        floor, size, size_power, text, text_power, warm = self.samples[0]
        return {
            "E": float(np.exp(floor)),
            "A": float(np.exp(size) * _SIZE**size_power),
            "alpha": size_power,
            "B": float(np.exp(text) * _TEXT**text_power),
            "beta": text_power,
            "before_cooldown": float(np.exp(warm)),
        }

    def loss(self, parameters: float, text_bytes: float, start: float = math.inf) -> float:
        """Return the expected loss of a run in bits per byte.

        Args:
            parameters: Number of parameters that take part in matrix products, including the head.
            text_bytes: Effective bytes of text trained on.
            start: Bits per byte before the first step of a run with a warm start; infinite without one.
        """
        features = _features([Observation(parameters, text_bytes, 1.0, start=start)])
        return float(np.exp(_predict(np.array(self.samples[:1]), features))[0, 0])

    def forecast(self, parameters: float, text_bytes: float, start: float = math.inf, seed: int = 0) -> Interval:
        """Return the expected loss of a run in bits per byte, with the 90 % interval for a single run.

        Args:
            parameters: Number of parameters that take part in matrix products, including the head.
            text_bytes: Effective bytes of text trained on.
            start: Bits per byte before the first step of a run with a warm start; infinite without one.
            seed: Seed of the noise that is added to the bootstrap samples.
        """
        features = _features([Observation(parameters, text_bytes, 1.0, start=start)])
        logs = _predict(np.array(self.samples), features)[:, 0]
        # Three sources of error: the bootstrap samples, the scatter of a single run, and the form of the law, which is
        # the less certain the further N x D lies beyond the runs that it was fitted to.
        decades = float(np.log10(self.beyond(parameters, text_bytes)))
        deviation = float(np.hypot(self.noise, FORM * decades))
        luck = numpy_stream(seed, "forecast").standard_normal(len(logs)) * deviation
        low, high = np.quantile(logs[1:] + luck[1:], (0.05, 0.95)) if len(logs) > 1 else (logs[0], logs[0])
        return Interval(float(np.exp(logs[0])), float(np.exp(min(low, logs[0]))), float(np.exp(max(high, logs[0]))))

    def beyond(self, parameters: float, text_bytes: float) -> float:
        """Return how many times the N x D of a run is that of the largest run the law was fitted to; 1 at most of them.

        Args:
            parameters: Number of parameters that take part in matrix products, including the head.
            text_bytes: Effective bytes of text trained on.
        """
        return max(1.0, parameters * text_bytes / self.reach) if self.reach else 1.0

    def shifted(self, factor: float) -> ScalingLaw:
        """Return the law with all three terms multiplied by `factor`, such as the mean error of past forecasts."""
        shift = np.log(factor) * np.array([1, 1, 0, 1, 0, 0])
        samples = tuple(tuple(map(float, np.array(sample) + shift)) for sample in self.samples)
        return replace(self, samples=samples)

    def to_json(self) -> dict[str, Any]:
        """Return the law as JSON values, with the constants of the best fit."""
        return asdict(self) | {"constants": self.constants}


def fit_scaling_law(
    observations: Sequence[Observation],
    *,
    prior: Prior = WIDE,
    draws: int = 200,
    seed: int = 0,
    origin: str = "",
    least_noise: float = 0.004,
) -> ScalingLaw:
    """Fit the scaling law and return it.

    The fit minimises the Huber loss of the log losses plus the prior (a maximum a posteriori estimate) from 32 starting
    points. The uncertainty comes from a parametric bootstrap: each draw adds noise as large as the residuals of the fit
    to the losses, draws new means of the prior from the prior itself, and fits again. What the runs do not determine
    therefore stays as uncertain as the prior (randomized maximum likelihood).

    Args:
        observations: Losses of at least three runs, or several points along one.
        prior: Prior distribution of the parameters.
        draws: Number of bootstrap samples.
        seed: Seed of the starting points and of the bootstrap.
        origin: What the runs are, in words.
        least_noise: Lower limit of the standard deviation of the log loss of a single run: a handful of runs that
            happen to agree do not prove that runs do not scatter.

    Raises:
        ValueError: if there is no observation, or a loss or size is not positive.

    Examples:
        >>> seen = [Observation(n, d, 0.6 + 90 * n**-0.4 + 90 * d**-0.35) for n in (1e6, 4e6) for d in (1e7, 4e7)]
        >>> law = fit_scaling_law(seen, draws=10)
        >>> round(law.loss(2e6, 2e7), 1)
        1.1
    """
    if not observations:
        raise ValueError("a law cannot be fitted to nothing")
    if min(min(seen.parameters, seen.text_bytes, seen.bits_per_byte, seen.start) for seen in observations) <= 0:
        raise ValueError("losses, parameters and bytes must be positive")
    features = _features(observations)
    logs = np.log([seen.bits_per_byte for seen in observations])
    weights = np.array([seen.weight for seen in observations])
    means, precision = np.array(prior.means), 1.0 / np.array(prior.deviations) ** 2
    generator = numpy_stream(seed, "law")
    starts = means + np.array(prior.deviations) * generator.standard_normal((32, len(means)))
    fits, costs = _minimise(starts, features, np.tile(logs, (32, 1)), weights, np.tile(means, (32, 1)), precision)
    best = fits[np.argmin(costs)]
    runs = [seen.run or str(number) for number, seen in enumerate(observations)]
    noise = max(least_noise, _scatter(logs - _predict(best[None], features)[0], weights, runs))
    # The noise is mostly common to all points of a run; they scatter little (0.3 of it) around their own curve.
    names = {name: index for index, name in enumerate(dict.fromkeys(runs))}
    index = np.array([names[run] for run in runs])
    luck = noise * generator.standard_normal((draws, len(names)))[:, index]
    luck += 0.3 * noise * generator.standard_normal((draws, len(logs)))
    centres = means + np.array(prior.deviations) * generator.standard_normal((draws, len(means)))
    begin = np.tile(best, (draws, 1))
    sampled, _ = _minimise(begin, features, _predict(best[None], features) + luck, weights, centres, precision)
    samples = tuple(tuple(float(value) for value in row) for row in np.vstack([best[None], sampled]))
    reach = max(seen.parameters * seen.text_bytes for seen in observations)
    return ScalingLaw(samples, noise, len(names), origin, reach)


def _features(observations: Sequence[Observation]) -> np.ndarray:
    """Return (points, 4) features: log N and log D relative to the reference, 1 before the decay, log of the start."""
    return np.array(
        [
            (
                np.log(seen.parameters / _SIZE),
                np.log(seen.text_bytes / _TEXT),
                float(not seen.cooled),
                np.log(seen.start),
            )
            for seen in observations
        ]
    )


def _parts(fits: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the logarithms of the three terms E, A·N^-α and B·D^-β, (fits, points) each."""
    floor = np.broadcast_to(fits[:, :1], (len(fits), len(features)))
    return (
        floor,
        fits[:, 1:2] - fits[:, 2:3] * features[None, :, 0],
        fits[:, 3:4] - fits[:, 4:5] * features[None, :, 1],
    )


def _predict(fits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the (fits, points) log losses. Sums of terms are taken with log-sum-exp, which cannot overflow."""
    law = np.logaddexp.reduce(np.stack(_parts(fits, features)), axis=0)
    return _smooth_minimum(law, features) + fits[:, 5:6] * features[None, :, 2]


def _smooth_minimum(law: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the log losses of runs with a warm start: the smooth minimum (a soft minimum) of law and start."""
    return -np.logaddexp(-SHARPNESS * law, -SHARPNESS * features[None, :, 3]) / SHARPNESS


def _jacobian(fits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the (fits, points, 6) derivatives of `_predict` by the parameters."""
    floor, size, text = _parts(fits, features)
    law = np.logaddexp.reduce(np.stack((floor, size, text)), axis=0)
    follows = np.exp(SHARPNESS * (_smooth_minimum(law, features) - law))  # chain rule: 1 where the start is irrelevant
    shares = [np.exp(part - law) * follows for part in (floor, size, text)]
    warm = np.broadcast_to(features[None, :, 2], law.shape)
    columns = (
        shares[0],
        shares[1],
        -shares[1] * features[None, :, 0],
        shares[2],
        -shares[2] * features[None, :, 1],
        warm,
    )
    return np.stack(columns, axis=-1)


def _minimise(
    fits: np.ndarray,
    features: np.ndarray,
    logs: np.ndarray,
    weights: np.ndarray,
    centres: np.ndarray,
    precision: np.ndarray,
    steps: int = 80,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the Huber loss plus the prior for many fits at once.

    Args:
        fits: (fits, 6) starting points.
        features: (points, 4) features of the observations.
        logs: (fits, points) log losses.
        weights: (points,) weights of the observations.
        centres: (fits, 6) means of the prior.
        precision: (6,) reciprocal variances of the prior.
        steps: Largest number of iterations.

    Returns:
        The (fits, 6) minima and their (fits,) costs.
    """
    # Levenberg-Marquardt with iteratively reweighted least squares (IRLS): weights of min(1, HUBER / |residual|) turn
    # the Huber loss into least squares, and each fit has its own damping, which is reduced after an accepted step and
    # raised after a rejected one.
    spread = HUBER**2  # residuals are measured in units of HUBER, the prior in its standard deviations
    damping = np.full(len(fits), 1e-2)
    costs = _costs(fits, features, logs, weights, centres, precision)
    for _ in range(steps):
        residuals = logs - _predict(fits, features)
        trust = weights * np.minimum(1.0, HUBER / np.maximum(np.abs(residuals), 1e-12)) / spread
        jacobian = _jacobian(fits, features)
        normal = np.einsum("fpi,fp,fpj->fij", jacobian, trust, jacobian) + np.diag(precision)
        slope = np.einsum("fpi,fp->fi", jacobian, trust * residuals) + precision * (centres - fits)
        scale = damping[:, None, None] * np.einsum("fii->fi", normal)[:, :, None] * np.eye(fits.shape[1])
        moved = fits + np.linalg.solve(normal + scale, slope[:, :, None])[:, :, 0]
        moved[:, [2, 4]] = np.clip(moved[:, [2, 4]], 0.02, 2.0)  # the exponents must stay positive
        tried = _costs(moved, features, logs, weights, centres, precision)
        better = tried < costs
        gained = np.max(np.where(better, costs - tried, 0.0) / np.maximum(costs, 1e-9))
        fits, costs = np.where(better[:, None], moved, fits), np.where(better, tried, costs)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        if gained < 1e-9 and not better.any():
            break
    return fits, costs


def _costs(
    fits: np.ndarray,
    features: np.ndarray,
    logs: np.ndarray,
    weights: np.ndarray,
    centres: np.ndarray,
    precision: np.ndarray,
) -> np.ndarray:
    size = np.abs(logs - _predict(fits, features)) / HUBER
    huber = np.where(size <= 1.0, 0.5 * size**2, size - 0.5)
    return (huber * weights).sum(1) + 0.5 * (precision * (fits - centres) ** 2).sum(1)


def _scatter(residuals: np.ndarray, weights: np.ndarray, runs: Sequence[str]) -> float:
    """Return the standard deviation of runs around the law: 1.4826 MAD, corrected for the fitted parameters."""
    means = [
        float(
            np.average(residuals[[other == run for other in runs]], weights=weights[[other == run for other in runs]])
        )
        for run in dict.fromkeys(runs)
    ]
    size = 1.4826 * float(np.median(np.abs(means)))
    free = max(1, len(means) - 4)
    return size * float(np.sqrt(len(means) / free)) if len(means) > 4 else max(size, 0.02)

"""The scaling law: what loss a model of N parameters reaches on D bytes of text, and how sure that is.

L(N, D) = E + A·N^-α + B·D^-β (Hoffmann et al. 2022, arXiv 2203.15556, approach 3), in bits per byte of original text,
so that tokenizers do not matter. D is effective: repeated text counts for less (`planning.repetition`). Runs looked at
before their learning rate fell (the constant stretch of a wsd schedule) lie above the law by a factor of their own,
fitted along, which lets one run give several points (arXiv 2405.18392).

A run that begins from counts of pairs of tokens is better than the law at first, and follows it when the law has come
down to where the run began: its loss is a smooth minimum of both, (L^-q + S^-q)^(-1/q), S the loss at its beginning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lavra.core.seeds import numpy_stream

HUBER = 1e-2
"""Residuals of the logarithm beyond this count linearly: one diverged run does not bend the law. Hoffmann et al. take
1e-3; short runs scatter by about a hundredth."""

FORM = 0.02
"""Standard deviation of the logarithm, for each factor of ten in N x D beyond the runs, by which the form of the law
may be wrong: its three terms describe the runs that it was fitted to, and what they do beyond is believed."""


SHARPNESS = 30.0
"""q of the smooth minimum: where L = S the loss is 2 % below both. Fits to some sixty runs gave 18 to 41."""


@dataclass(frozen=True)
class Observation:
    """One measured loss.

    Attributes:
        parameters: N: those in matrix products, the head's included.
        text_bytes: D: effective bytes of text learned from.
        bits_per_byte: of held-out text.
        cooled: whether the learning rate had fallen; otherwise the loss is above what the law says.
        run: points of one run share their luck, so they are resampled together.
        weight: how much the point counts.
        start: bits per byte before the first step, of a run that began from counts of pairs of tokens; else infinite.
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
    """What is believed before any run: normal, of the logarithms of E, of A·(10^6)^-α and of B·(10^7)^-β, of both
    powers, and of the logarithm of the factor for runs whose learning rate has not fallen.

    Attributes:
        means: the six means.
        deviations: the six standard deviations.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]


WIDE = Prior((-0.6, -0.7, 0.34, -0.7, 0.37, 0.05), (0.2, 1.2, 0.12, 1.2, 0.12, 0.05))
"""Powers and floor around those of Hoffmann et al. 2022 and Besiroglu et al. 2024 (0.35 and 0.37; 1.7 to 1.8 nats a
token, some 0.55 bits per byte), and parts of some tenths at a million parameters and ten megabytes. Short runs alone do
not tell the floor from the rest: fitted without knowledge of it, they promise that nothing ever gets below 1.1."""

_SIZE, _TEXT = 1e6, 1e7
"""Where the parts are measured that the fit works with: they are far less entangled there than at N = D = 1."""


@dataclass(frozen=True)
class Interval:
    """A value with the interval that holds it nine times of ten.

    Attributes:
        value: the best guess.
        low: 5 % lie below.
        high: 5 % lie above.
    """

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """Return the interval in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def to_json(self) -> dict[str, float]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Law:
    """A fitted law.

    Attributes:
        samples: (draws, 6) parameters: the best fit first, then what other luck would have given.
        noise: standard deviation of one run's logarithm around the law.
        runs: that it was fitted to.
        origin: what it was fitted to, in words.
        reach: largest N x D among the runs; beyond it the law is less and less sure of its own form.
    """

    samples: tuple[tuple[float, ...], ...]
    noise: float
    runs: int
    origin: str = ""
    reach: float = 0.0

    @property
    def constants(self) -> dict[str, float]:
        """E, A, alpha, B and beta of the best fit, as the formula has them."""
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
        """Return the best guess in bits per byte, of a run that begins with a loss of `start`."""
        features = _features([Observation(parameters, text_bytes, 1.0, start=start)])
        return float(np.exp(_predict(np.array(self.samples[:1]), features))[0, 0])

    def forecast(self, parameters: float, text_bytes: float, start: float = math.inf, seed: int = 0) -> Interval:
        """Return the bits per byte to expect of one run, with the interval of nine in ten."""
        features = _features([Observation(parameters, text_bytes, 1.0, start=start)])
        logs = _predict(np.array(self.samples), features)[:, 0]
        decades = max(0.0, float(np.log10(parameters * text_bytes / self.reach))) if self.reach else 0.0
        deviation = float(np.hypot(self.noise, FORM * decades))
        luck = numpy_stream(seed, "forecast").standard_normal(len(logs)) * deviation
        low, high = np.quantile(logs[1:] + luck[1:], (0.05, 0.95)) if len(logs) > 1 else (logs[0], logs[0])
        return Interval(float(np.exp(logs[0])), float(np.exp(min(low, logs[0]))), float(np.exp(max(high, logs[0]))))

    def shifted(self, factor: float) -> Law:
        """Return the law with every loss but that of the start multiplied by `factor`: what other runs were off by."""
        shift = np.log(factor) * np.array([1, 1, 0, 1, 0, 0])
        samples = tuple(tuple(map(float, np.array(sample) + shift)) for sample in self.samples)
        return replace(self, samples=samples)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"constants": self.constants}


def fit_law(
    observations: Sequence[Observation],
    *,
    prior: Prior = WIDE,
    draws: int = 200,
    seed: int = 0,
    origin: str = "",
    least_noise: float = 0.004,
) -> Law:
    """Fit the law: the best of several starts by Huber's loss of logarithms, and a bootstrap for the uncertainty.

    Each draw of the bootstrap moves the runs' losses by luck as large as what the fit left over, and the prior's means
    by its own deviations, and fits again; so what the runs do not determine stays as uncertain as it was.

    Args:
        observations: of at least three runs, or of points along one.
        prior: what is believed before.
        draws: of the bootstrap.
        seed: of its luck.
        origin: what the runs are, in words.
        least_noise: of a run's logarithm, below which no handful of runs can prove it to be.

    Raises:
        ValueError: without observations, or for a loss or size that is not positive.
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
    # Luck is of a run as a whole; points along a run scatter little around their own curve.
    names = {name: index for index, name in enumerate(dict.fromkeys(runs))}
    index = np.array([names[run] for run in runs])
    luck = noise * generator.standard_normal((draws, len(names)))[:, index]
    luck += 0.3 * noise * generator.standard_normal((draws, len(logs)))
    centres = means + np.array(prior.deviations) * generator.standard_normal((draws, len(means)))
    begin = np.tile(best, (draws, 1))
    sampled, _ = _minimise(begin, features, _predict(best[None], features) + luck, weights, centres, precision)
    samples = tuple(tuple(float(value) for value in row) for row in np.vstack([best[None], sampled]))
    reach = max(seen.parameters * seen.text_bytes for seen in observations)
    return Law(samples, noise, len(names), origin, reach)


def _features(observations: Sequence[Observation]) -> np.ndarray:
    """Return (points, 4): logarithms of N and D from their reference, whether before cooldown, log of the start."""
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
    """Return the (fits, points) logarithms of the floor, the part of the size and the part of the text."""
    floor = np.broadcast_to(fits[:, :1], (len(fits), len(features)))
    return (
        floor,
        fits[:, 1:2] - fits[:, 2:3] * features[None, :, 0],
        fits[:, 3:4] - fits[:, 4:5] * features[None, :, 1],
    )


def _predict(fits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the (fits, points) logarithms of the loss."""
    law = np.logaddexp.reduce(np.stack(_parts(fits, features)), axis=0)
    return _smooth_minimum(law, features) + fits[:, 5:6] * features[None, :, 2]


def _smooth_minimum(law: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the logarithms of what a run reaches that begins with a loss, from those of the law."""
    return -np.logaddexp(-SHARPNESS * law, -SHARPNESS * features[None, :, 3]) / SHARPNESS


def _jacobian(fits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the (fits, points, 6) derivatives of `_predict`."""
    floor, size, text = _parts(fits, features)
    law = np.logaddexp.reduce(np.stack((floor, size, text)), axis=0)
    follows = np.exp(SHARPNESS * (_smooth_minimum(law, features) - law))  # 1 where only the law counts
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
    """Minimise the Huber loss of many fits at once, by Levenberg and Marquardt on reweighted squares.

    Args:
        fits: (fits, 6) where to start.
        features: (points, 4).
        logs: (fits, points) logarithms of the losses.
        weights: (points,).
        centres: (fits, 6) means of the prior.
        precision: (6,) of the prior.
        steps: at most.

    Returns:
        The fits and their costs.
    """
    spread = HUBER**2  # residuals are measured in units of HUBER, the prior in its deviations
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
        moved[:, [2, 4]] = np.clip(moved[:, [2, 4]], 0.02, 2.0)
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
    """Return the standard deviation of runs around the law, robustly, larger for the parameters that were fitted."""
    means = [
        float(
            np.average(residuals[[other == run for other in runs]], weights=weights[[other == run for other in runs]])
        )
        for run in dict.fromkeys(runs)
    ]
    size = 1.4826 * float(np.median(np.abs(means)))
    free = max(1, len(means) - 4)
    return size * float(np.sqrt(len(means) / free)) if len(means) > 4 else max(size, 0.02)

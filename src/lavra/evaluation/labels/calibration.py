"""Calibration: makes the probabilities of a model mean what they say, without changing what it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.labels.predictions import Predictions

_STEPS = 100  # steps of Newton's method; the loss is convex, and some ten are enough
_LEAST = 1e-12  # probability that a logarithm sees at least
_SLOPES = (0.01, 100.0)  # a slope that is not positive would turn the ranking around


@dataclass(frozen=True)
class Calibration:
    """A map of probabilities.

    Attributes:
        kind: "classes": one temperature, softmax(log p / T) (Guo et al. 2017); "labels": for each label a slope and
            an offset of its log-odds (Platt 1999).
        slopes: 1 / T, (1,), or the slope of each label, (K,). All are above zero.
        offsets: Offset of each label, (K,); (1,) of zero for classes.

    Examples:
        >>> Calibration("classes", np.array([1.0]), np.array([0.0])).temperature
        1.0
    """

    kind: str
    slopes: NDArray[np.float64]
    offsets: NDArray[np.float64]

    @property
    def temperature(self) -> float | None:
        """The temperature of classes; None for labels."""
        return float(1 / self.slopes[0]) if self.kind == "classes" else None

    def apply(self, table: Predictions) -> Predictions:
        """Return the table with calibrated probabilities; the likeliest class of a row stays the likeliest.

        Raises:
            InputError: If the table is of another kind than the one that the calibration was fitted to.
        """
        if table.kind != self.kind:
            raise InputError(f"a calibration of {self.kind} does not fit {table.kind}", "fit one to this table")
        if self.kind == "labels":
            return table.with_probabilities(_sigmoid(self.slopes * _log_odds(table.probabilities) + self.offsets))
        found = _softmax(self.slopes[0] * _logs(table.probabilities))
        # Two probabilities that differ in their last bits may come out equal, of which the first would be taken.
        before = table.probabilities.argmax(axis=1)
        moved = np.flatnonzero(found.argmax(axis=1) != before)
        top = found[moved, before[moved]]
        found[moved] = np.minimum(found[moved], np.nextafter(top, 0.0)[:, None])
        found[moved, before[moved]] = top
        return table.with_probabilities(found)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as plain values."""
        return {"kind": self.kind, "slopes": self.slopes.tolist(), "offsets": self.offsets.tolist()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Calibration:
        """Return the calibration of `to_json`."""
        return Calibration(value["kind"], np.asarray(value["slopes"]), np.asarray(value["offsets"]))


def fit_calibration(table: Predictions) -> Calibration:
    """Return the calibration with the smallest log-loss on out-of-fold predictions.

    A prior that is worth one row draws it towards changing nothing, so that a few rows, or rows that are all right,
    give no extreme. What it gains must be measured on other rows (`nested_gain`).

    Args:
        table: Predictions of rows that the model did not learn. Rows of which nothing is known are left out.

    Raises:
        InputError: If the predictions are values, or classes in an order, whose decision is a median.

    Examples:
        >>> from lavra.evaluation.labels.predictions import one_hot
        >>> boast = np.tile([0.99, 0.01], (1000, 1))
        >>> right = one_hot(np.arange(1000) % 4 == 0, 2)
        >>> fitted = fit_calibration(Predictions(range(1000), right, boast, ["no", "yes"]))
        >>> fitted.temperature > 3, fitted.apply(Predictions(["x"], right[:1], boast[:1], ["no", "yes"])).probabilities
        (True, array([[0.7..., 0.2...]]))
    """
    known = table.known
    targets, weights = table.targets[known], table.weights[known]
    if table.kind == "classes":
        slope = _fit_temperature(_logs(table.probabilities[known]), targets, weights)
        return Calibration("classes", np.array([slope]), np.zeros(1))
    if table.kind == "labels":
        odds = _log_odds(table.probabilities[known])
        fitted = np.array([_fit_platt(odds[:, one], targets[:, one], weights) for one in range(odds.shape[1])])
        return Calibration("labels", fitted[:, 0], fitted[:, 1])
    raise InputError(f"predictions of {table.kind} cannot be calibrated", "calibrate classes or labels")


def _fit_temperature(logs: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the inverse temperature by Newton's method, kept within an interval that only shrinks."""
    low, high = _SLOPES
    slope = 1.0
    for _ in range(_STEPS):
        probabilities = _softmax(slope * logs)
        means = (probabilities * logs).sum(axis=1)
        # The derivative of the loss is the expected log-probability by the model minus that by the targets, its second
        # derivative the variance by the model. Both include those of the prior, (slope - 1)² / 2.
        first = weights @ (means - (targets * logs).sum(axis=1)) + slope - 1
        second = weights @ np.maximum(0.0, (probabilities * logs**2).sum(axis=1) - means**2) + 1
        low, high = (low, slope) if first > 0 else (slope, high)
        step = slope - first / second
        step = step if low <= step <= high else (low + high) / 2
        if abs(step - slope) <= 1e-10 * slope:
            return float(step)
        slope = step
    return float(slope)


def _fit_platt(
    odds: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float]:
    """Return slope and offset of one label by Newton's method with halved steps."""
    design = np.column_stack([odds, np.ones(len(odds))])
    prior = np.array([1.0, 0.0])

    def loss(found: NDArray[np.float64]) -> float:
        values = design @ found
        return float(weights @ (np.logaddexp(0, values) - targets * values) + ((found - prior) ** 2).sum() / 2)

    found: NDArray[np.float64] = prior.copy()
    for _ in range(_STEPS):
        probabilities = _sigmoid(design @ found)
        gradient = design.T @ (weights * (probabilities - targets)) + found - prior
        curvature = (design * (weights * probabilities * (1 - probabilities))[:, None]).T @ design + np.eye(2)
        step = np.asarray(np.linalg.solve(curvature, gradient), dtype=np.float64)
        before, size = loss(found), 1.0
        while size > 1e-6 and (
            loss(np.asarray(found - size * step)) > before or found[0] - size * step[0] < _SLOPES[0]
        ):
            size /= 2
        if size <= 1e-6 or np.abs(size * step).max() <= 1e-10:
            break
        found = np.asarray(found - size * step, dtype=np.float64)
    return float(found[0]), float(found[1])


def _logs(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities, _LEAST))


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return _logs(probabilities) - _logs(1 - probabilities)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -values))

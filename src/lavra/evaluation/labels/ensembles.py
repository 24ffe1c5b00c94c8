"""Linear ensembles: weights of at least 0 that sum to 1, fitted to out-of-fold probabilities.

The mean of probabilities is a probability again, and the loss is convex in the weights, so that there is one best loss
and it is found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.errors import InputError
from lavra.evaluation.labels.joining import aligned
from lavra.evaluation.labels.predictions import Predictions

_LEAST = 1e-12  # probability that a logarithm sees at least
_STEPS = 200  # Newton steps at most; some ten are enough
_GAP = 1e-9  # distance from the best loss, in nats or squared units, at which the search ends


def fit_weights(members: Sequence[Predictions]) -> NDArray[np.float64]:
    """Return the weight of each member that makes the loss of their mean smallest.

    The loss is the log-loss, or the squared error of values. What the ensemble gains must be measured on other rows
    (`nested_gain`).

    Args:
        members: Out-of-fold predictions of each model on the same rows, at least one. Rows of which nothing is known
            are left out.

    Returns:
        Weights, (members,), at least 0, with the sum 1. Of members that are equal, the division between them means
        nothing.

    Raises:
        InputError: If the tables do not have the same rows and classes, or no row has a label.

    Examples:
        >>> from lavra.evaluation.labels.predictions import one_hot
        >>> truth = one_hot([0, 1, 1, 0], 2)
        >>> good = Predictions("abcd", truth, 0.8 * truth + 0.1, ["no", "yes"])
        >>> bad = good.with_probabilities(0.1 + 0.8 * truth[:, ::-1])
        >>> fit_weights([bad, good]).tolist()
        [0.0, 1.0]
    """
    members = aligned(members)
    known = members[0].known
    if not known.any():
        raise InputError("no row has a label, so that no ensemble can be fitted", "add labels")
    if len(members) == 1:
        return np.ones(1)
    first = members[0].select(known)
    targets, columns = first.targets, np.stack([member.probabilities[known] for member in members], axis=-1)
    if first.kind == "labels":  # each label is one of two classes: to have it or not
        targets, columns = (
            np.concatenate([targets, 1 - targets], axis=1),
            np.concatenate([columns, 1 - columns], axis=1),
        )
    amounts = (targets if first.kind != "values" else np.ones_like(targets)) * first.weights[:, None]
    amounts = amounts.ravel() / max(1e-300, float(first.weights.sum()))
    cells = columns.reshape(-1, len(members))
    if first.kind == "values":
        return _minimised(_SquaredError(cells[amounts > 0], targets.ravel()[amounts > 0], amounts[amounts > 0]))
    return _minimised(_LogLoss(np.maximum(cells[amounts > 0], _LEAST), amounts[amounts > 0]))


def combine(members: Sequence[Predictions], weights: ArrayLike) -> Predictions:
    """Return the weighted mean of the members' predictions.

    Args:
        members: Predictions of each model on the same rows.
        weights: Weight of each member, (members,), at least 0, with the sum 1.

    Raises:
        InputError: If the tables do not have the same rows and classes, or the weights are none.
    """
    members, numbers = aligned(members), np.asarray(weights, dtype=np.float64)
    if numbers.shape != (len(members),) or (numbers < 0).any() or abs(numbers.sum() - 1) > 1e-6:
        raise InputError(f"{numbers.tolist()} are no weights of {len(members)} members", "give weights that sum to 1")
    total = np.zeros_like(members[0].probabilities)
    for weight, member in zip(numbers.tolist(), members, strict=True):
        total += weight * member.probabilities
    if members[0].kind != "values":
        total = np.clip(total, 0.0, 1.0)  # the rounding of the sum
    return members[0].with_probabilities(total)


class _LogLoss:
    """Mean of -log(cells @ weights), weighted by the targets."""

    def __init__(self, cells: NDArray[np.float64], amounts: NDArray[np.float64]) -> None:
        self.cells, self.amounts = cells, amounts

    def value(self, weights: NDArray[np.float64]) -> float:
        return -float(self.amounts @ np.log(self.cells @ weights))

    def slopes(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gradient and curvature."""
        shares = self.cells / (self.cells @ weights)[:, None]
        return -(self.amounts @ shares), (shares * self.amounts[:, None]).T @ shares


class _SquaredError:
    """Mean of (cells @ weights - targets)²."""

    def __init__(self, cells: NDArray[np.float64], targets: NDArray[np.float64], amounts: NDArray[np.float64]) -> None:
        self.cells, self.targets, self.amounts = cells, targets, amounts

    def value(self, weights: NDArray[np.float64]) -> float:
        return float(self.amounts @ (self.cells @ weights - self.targets) ** 2)

    def slopes(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gradient and curvature."""
        weighted = 2 * self.amounts[:, None] * self.cells
        return weighted.T @ (self.cells @ weights - self.targets), weighted.T @ self.cells


def _minimised(loss: _LogLoss | _SquaredError) -> NDArray[np.float64]:
    """Return the weights with the smallest loss, by Newton steps whose quadratic problems are solved on the simplex."""
    members = loss.cells.shape[1]
    weights = np.full(members, 1 / members)
    for _ in range(_STEPS):
        gradient, curvature = loss.slopes(weights)
        # The loss is convex: nothing on the simplex can lie further below than the gradient promises (Frank-Wolfe gap).
        if gradient @ weights - gradient.min() <= _GAP:
            break
        step = _quadratic_on_simplex(gradient - curvature @ weights, curvature, weights) - weights
        before, size = loss.value(weights), 1.0
        while size > 1e-9 and loss.value(weights + size * step) > before + 1e-4 * size * (gradient @ step):
            size /= 2
        weights = weights + size * step
        weights = weights / weights.sum()
        if size <= 1e-9:
            break
    return weights


def _quadratic_on_simplex(
    slope: NDArray[np.float64], curvature: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the point of the simplex with the smallest slope·x + x·curvature·x / 2, by accelerated projections."""
    size = 1 / max(1e-300, float(np.linalg.eigvalsh(curvature)[-1]))
    found = ahead = start
    momentum = 1.0
    for _ in range(2000):
        following = _on_simplex(ahead - size * (slope + curvature @ ahead))
        if (ahead - following) @ (following - found) > 0:  # the momentum leads uphill: begin anew (O'Donoghue 2015)
            momentum, ahead = 1.0, following
        else:
            grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            ahead = following + (momentum - 1) / grown * (following - found)
            momentum = grown
        if np.abs(following - found).max() <= 1e-13:
            return following
        found = following
    return found


def _on_simplex(point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest point whose coordinates are at least 0 and sum to 1 (Duchi et al. 2008)."""
    falling = np.sort(point)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(point) + 1)
    return np.maximum(point - excess[np.flatnonzero(falling > excess)[-1]], 0.0)

"""The regressions of scikit-learn, one column of outputs at a time on all cores, with weights and soft targets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.core.machine import usable_cores

MOST_STEPS = 2000  # passes over the rows of a logistic regression

TOLERANCE = 0.01
"""Size of the gradient at which a logistic regression ends. On 77 classes of questions, the predictions are the same to
three digits as with the 0.0001 of scikit-learn, in half the time."""

ROUGH = 0.1
"""The same for regressions that are only compared with each other: a third of the time."""


class Solution(NamedTuple):
    """What regressions found.

    Attributes:
        weights: (features, columns) float32.
        biases: (columns,) float64.
        stopped: Number of columns that stopped before they had converged.
    """

    weights: NDArray[np.float32]
    biases: NDArray[np.float64]
    stopped: int


def needed(module: str = "sklearn.linear_model") -> Any:
    """Return a module of scikit-learn.

    Raises:
        InputError: If it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"linear models need scikit-learn and SciPy ({error})", "pip install 'lavra[classify]'"
        ) from error


def logistic(
    matrix: Any,
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    strength: float,
    *,
    tolerance: float = TOLERANCE,
) -> Solution:
    """Return weights and biases of one logistic regression for each column.

    A soft target q is a row that is given twice, with the weight q as a positive and 1 - q as a negative one.

    Args:
        matrix: Features, (rows, features) sparse.
        targets: Probability of each output, (rows, columns).
        weights: Weight of each row for each output, (rows, columns).
        strength: How strongly the rows speak against the penalty: `C` of scikit-learn.
        tolerance: Size of the gradient at which the search ends.
    """
    found = np.zeros((matrix.shape[1], targets.shape[1]), dtype=np.float32)
    biases, stopped = np.zeros(targets.shape[1]), np.zeros(targets.shape[1], dtype=bool)

    def solve(column: int) -> None:
        weight, biases[column], stopped[column] = _one_logistic(
            matrix, targets[:, column], weights[:, column], strength, tolerance
        )
        found[:, column] = weight

    # scikit-learn brings a matrix into its canonical form in place, which threads that share it must not do at once.
    matrix.sum_duplicates()
    with ThreadPoolExecutor(max_workers=min(usable_cores(), targets.shape[1])) as pool:
        list(pool.map(solve, range(targets.shape[1])))  # the list raises what a thread raised
    return Solution(found, biases, int(stopped.sum()))


def _one_logistic(
    matrix: Any, targets: NDArray[np.float64], weights: NDArray[np.float64], strength: float, tolerance: float
) -> tuple[NDArray[np.float64], float, bool]:
    """Return weights and bias of one column, and whether the regression stopped before it had converged."""
    positive, negative = (np.flatnonzero((part > 0) & (weights > 0)) for part in (targets, 1 - targets))
    amounts = np.concatenate([(weights * targets)[positive], (weights * (1 - targets))[negative]])
    if not len(positive) or not len(negative):
        # All rows have the label, or none: the best constant, with one row to the contrary.
        total = float(amounts.sum())
        return np.zeros(matrix.shape[1]), float(np.log1p(total)) * (1 if len(positive) else -1), False
    rows = np.concatenate([positive, negative])
    labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    order = np.argsort(rows, kind="stable")
    rows, labels, amounts = rows[order], labels[order], amounts[order]
    if not np.array_equal(rows, np.arange(matrix.shape[0])):  # hard targets need no copy of the matrix
        matrix = matrix[rows]
    # The primal form: the dual one draws from a generator that all threads share, so that no two fits would be equal.
    model = needed().LogisticRegression(C=strength, solver="liblinear", dual=False, tol=tolerance, max_iter=MOST_STEPS)
    model.fit(matrix, labels, sample_weight=amounts)
    return model.coef_[0], float(model.intercept_[0]), bool(np.max(model.n_iter_) >= MOST_STEPS)


def ridge(matrix: Any, targets: NDArray[np.float64], weights: NDArray[np.float64], strength: float) -> Solution:
    """Return weights and biases of a ridge regression of each column.

    Args:
        matrix: Features, (rows, features) sparse.
        targets: Values, (rows, columns).
        weights: Weight of each row, (rows,).
        strength: Inverse of the penalty, `1 / alpha` of scikit-learn.
    """
    model = needed().Ridge(alpha=1 / strength, solver="sparse_cg", tol=1e-6, random_state=0)
    model.fit(matrix, targets, sample_weight=weights)
    found = np.asarray(model.coef_).reshape(targets.shape[1], -1).T
    return Solution(found.astype(np.float32), np.asarray(model.intercept_, dtype=np.float64).reshape(-1), 0)


@contextmanager
def counting_steps() -> Iterator[None]:
    """Silence the warnings of regressions that stop early; these are counted, and told once."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=needed("sklearn.exceptions").ConvergenceWarning)
        yield

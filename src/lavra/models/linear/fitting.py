"""Fits a linear model, with the strength of its penalty chosen by cross-validation as far as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.errors import InputError
from lavra.core.machine import usable_cores
from lavra.core.progress import Progress
from lavra.data.folds import Folds, make_folds
from lavra.models.linear.features import Features, Texts
from lavra.models.linear.model import Kind, LinearModel, from_scores
from lavra.models.linear.solvers import ROUGH, TOLERANCE, Solution, counting_steps, logistic, needed, ridge

STRENGTHS = {"logistic": (1.0, 3.0, 10.0, 30.0, 100.0), "ridge": (0.1, 0.3, 1.0, 3.0, 10.0)}
"""Inverse penalties among which is chosen, for logistic regressions (`C`) and for ridge regressions (`1 / alpha`).

The one in the middle is tried first, and is taken where there is no time or too few rows.
"""

_FOLDS = 3
_FEWEST_ROWS = 30  # rows from which on a choice by cross-validation says more than the default
_FEW_TEXTS = 500  # rows below which every term is a feature; of more, those of at least two texts
_MOST_WEIGHTS = 2**28  # 1 GiB of weights; with more classes than that allows, rare terms are left out
_LEAST = 1e-12  # probability that a logarithm sees at least


@dataclass(frozen=True)
class _Problem:
    """The training rows as features, with targets and weights for each column of outputs."""

    kind: Kind
    classes: tuple[str, ...]
    matrix: Any
    targets: NDArray[np.float64]  # (rows, classes)
    columns: NDArray[np.float64]  # (rows, columns): what the regressions learn
    weights: NDArray[np.float64]  # (rows, columns)
    rows: NDArray[np.float64]  # (rows,): weight of each row in the cross-validated loss

    @property
    def is_ridge(self) -> bool:
        """Whether the columns are numbers."""
        return self.kind in ("values", "ordinal")

    def solve(self, rows: Any, strength: float, tolerance: float = TOLERANCE) -> Solution:
        matrix = self.matrix if isinstance(rows, slice) else self.matrix[rows]
        if self.is_ridge:
            return ridge(matrix, self.columns[rows], self.weights[rows, 0], strength)
        return logistic(matrix, self.columns[rows], self.weights[rows], strength, tolerance=tolerance)


def fit_linear(
    texts: Texts,
    targets: ArrayLike,
    classes: Sequence[str],
    kind: Kind = "classes",
    *,
    weights: ArrayLike | None = None,
    class_weights: Mapping[str, float] | str | None = None,
    groups: Sequence[Hashable] | None = None,
    strength: float | None = None,
    seconds: float | Callable[[], float] | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> LinearModel:
    """Fit a linear model.

    Args:
        texts: Rows of one text, or of two (`text1`, `text2`).
        targets: Probability of each class or label, or the values, (rows, classes); NaN throughout where nothing is
            known, which is left out. A soft target counts as rows with weights.
        classes: Names of the classes, labels or values.
        kind: What is predicted.
        weights: Weight of each row, (rows,); None for 1.
        class_weights: Weight of each class by its name; or "balanced", which weighs a class by the inverse of its
            frequency; None for 1.
        groups: What each row belongs to; rows of one group stay together in the cross-validation.
        strength: Inverse strength of the penalty (`C`); None chooses among `STRENGTHS`.
        seconds: Time that there is, in seconds, or a function that returns the seconds left; None for no limit. The
            model itself is always fitted; only the choice of its penalty is cut short.
        seed: Seed of the folds.
        clock: Returns the time in seconds.

    Raises:
        InputError: If scikit-learn is not installed, no row has a label, there is one class only, or shapes differ.

    Examples:
        >>> from lavra.models.linear.fitting import fit_linear
        >>> model = fit_linear(["good film", "bad film"], [[1, 0], [0, 1]], ["good", "bad"])
        >>> model.predict_proba(["a good one"]).argmax()
        np.int64(0)
    """
    needed()
    start = clock()
    left = seconds if callable(seconds) else (lambda: np.inf if seconds is None else seconds - (clock() - start))
    goal, amounts, notes = _known(texts, targets, classes, weights, kind)
    rows = np.flatnonzero(amounts > 0)
    texts = [texts[row] for row in rows.tolist()]  # pyright: ignore[reportAssignmentType]
    goal, amounts = goal[rows], amounts[rows]
    groups = None if groups is None else [groups[row] for row in rows.tolist()]
    features, matrix, told = _features(texts, len(classes))
    problem = _problem(kind, tuple(classes), matrix, goal, amounts, class_weights)
    folds = _inner_folds(goal, kind, groups, seed)
    with counting_steps():
        tried, why = _chosen(problem, folds, strength, left, clock)
        best = min(tried, key=lambda one: tried[one][0]) if tried else (strength or _middle(problem))
        found = problem.solve(slice(None), best)
    if found.stopped:
        told += (f"{found.stopped:,} regressions stopped before they had converged",)
    if why:
        told += (why,)
    spread = tried[best][1] if tried else _in_sample_spread(problem, found)
    losses = {one: loss for one, (loss, _) in sorted(tried.items())}
    return LinearModel(
        kind, tuple(classes), features, found.weights, found.biases, spread, best, losses, (*notes, *told)
    )


def _known(
    texts: Texts, targets: ArrayLike, classes: Sequence[str], weights: ArrayLike | None, kind: Kind
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Return targets, and weights that are zero for rows of which nothing is known, and notes on these."""
    goal = np.asarray(targets, dtype=np.float64)
    amounts = np.ones(len(texts)) if weights is None else np.asarray(weights, dtype=np.float64)
    if goal.shape != (len(texts), len(classes)) or amounts.shape != (len(texts),):
        raise InputError(
            f"{len(texts)} texts have targets of the shape {goal.shape} and weights of the shape {amounts.shape}",
            f"give one row of {len(classes)} targets, and one weight, for each text",
        )
    known = ~np.isnan(goal).any(axis=1)
    amounts = np.where(known, amounts, 0.0)
    if not (amounts > 0).any():
        raise InputError("no row has a label to learn from", "add labels")
    if kind in ("classes", "ordinal"):
        there = np.flatnonzero(amounts @ np.nan_to_num(goal) > 0)
        if len(there) < 2:
            raise InputError(f"{classes[there[0]]!r} is the only class", "give rows of at least two classes")
    missing = int((~known).sum())
    return goal, amounts, (f"{missing:,} rows without label were left out",) if missing else ()


def _features(texts: Texts, columns: int) -> tuple[Features, Any, tuple[str, ...]]:
    """Return features, the rows in them, and a note where rare terms were left out to save memory."""
    fewest = 1 if len(texts) < _FEW_TEXTS else 2
    features, matrix = Features.fit(texts, fewest=fewest)
    asked = fewest
    while len(features) * columns > _MOST_WEIGHTS:
        fewest *= 2
        features, matrix = Features.fit(texts, fewest=fewest)
    note = f"terms of fewer than {fewest} texts were left out, because {columns:,} classes need much memory"
    return features, matrix, () if fewest == asked else (note,)


def _problem(
    kind: Kind,
    classes: tuple[str, ...],
    matrix: Any,
    goal: NDArray[np.float64],
    amounts: NDArray[np.float64],
    class_weights: Mapping[str, float] | str | None,
) -> _Problem:
    balance = _class_weights(kind, classes, goal, amounts, class_weights)
    if kind == "ordinal":
        columns = goal @ np.arange(len(classes), dtype=np.float64)[:, None]
    elif kind == "classes" and len(classes) == 2:
        columns = goal[:, 1:]
    else:
        columns = goal
    if kind in ("classes", "ordinal"):  # a row of a class counts as that many rows
        per_column = np.tile((amounts * (goal @ balance))[:, None], (1, columns.shape[1]))
    else:
        per_column = amounts[:, None] * balance
    return _Problem(kind, classes, matrix, goal, columns, per_column, amounts)


def _class_weights(
    kind: Kind,
    classes: tuple[str, ...],
    goal: NDArray[np.float64],
    amounts: NDArray[np.float64],
    given: Mapping[str, float] | str | None,
) -> NDArray[np.float64]:
    if given is None:
        return np.ones(len(classes))
    if isinstance(given, str):
        if given != "balanced" or kind == "values":
            raise InputError(
                f"class weights of {kind} cannot be {given!r}", 'give "balanced", or a weight for each class'
            )
        counts = amounts @ goal
        return np.where(counts > 0, amounts.sum() / (len(classes) * np.maximum(counts, 1e-300)), 0.0)
    unknown = [name for name in given if name not in classes]
    if unknown:
        raise InputError(
            f"a weight was given for {unknown[0]!r}, which is no class", f"choose among {', '.join(classes)}"
        )
    return np.array([given.get(name, 1.0) for name in classes])


def _inner_folds(goal: NDArray[np.float64], kind: Kind, groups: Sequence[Hashable] | None, seed: int) -> Folds | None:
    """Return the folds of the cross-validation; None where the rows are too few."""
    if len(goal) < _FEWEST_ROWS:
        return None
    labels: Any = goal if kind == "labels" else goal[:, 0] if kind == "values" else goal.argmax(axis=1).tolist()
    try:
        return make_folds(labels, _FOLDS, values=kind == "values", groups=groups, rare=True, seed=seed)
    except InputError:  # one class among the likeliest of soft targets, or too few groups
        return None


def _middle(problem: _Problem) -> float:
    options = STRENGTHS["ridge" if problem.is_ridge else "logistic"]
    return options[len(options) // 2]


def _chosen(
    problem: _Problem,
    folds: Folds | None,
    strength: float | None,
    left: Callable[[], float],
    clock: Callable[[], float],
) -> tuple[dict[float, tuple[float, float]], str]:
    """Return the loss and the spread of the errors of each strength that was tried, and why no more were.

    The loss has one minimum in the strength, so that the search goes uphill from the middle and turns once.
    """
    if strength is not None and problem.kind != "ordinal":
        return {}, ""
    options = (strength,) if strength is not None else STRENGTHS["ridge" if problem.is_ridge else "logistic"]
    if folds is None:
        return {}, "" if len(options) == 1 else f"{len(problem.rows):,} rows are too few to choose the penalty by"
    found: dict[float, tuple[float, float]] = {}
    # Of fits: the final one has half as many rows again, and is made with more care.
    rounds = 3 + folds.count / _parallel(problem, folds)
    slowest = _seconds_of_a_fit(problem, options[len(options) // 2], clock)

    def try_out(place: int) -> bool:
        nonlocal slowest
        if left() <= rounds * slowest:
            return False
        began = clock()
        found[options[place]] = _cross_validated(problem, folds, options[place], progress)
        slowest = max(slowest, (clock() - began) / (rounds - 3))
        return True

    with Progress("choosing the penalty of the linear model", total=4 * folds.count, unit="models") as progress:
        middle = len(options) // 2
        late = not try_out(middle)
        for step in (1, -1):
            here = middle
            while not late and 0 <= here + step < len(options):
                late = not try_out(here + step)
                if late or found[options[here + step]][0] >= found[options[here]][0]:
                    break
                here += step
            if here != middle:
                break
    return found, f"{len(found)} penalties were tried; for more there was no time" if late else ""


def _seconds_of_a_fit(problem: _Problem, strength: float, clock: Callable[[], float]) -> float:
    """Return about how long a fit takes, by one of many columns; 0 where they are few, and the first fit will show."""
    columns = problem.columns.shape[1]
    if problem.is_ridge or columns <= 2 * usable_cores():
        return 0.0
    began = clock()
    logistic(problem.matrix, problem.columns[:, :1], problem.weights[:, :1], strength, tolerance=ROUGH)
    return (clock() - began) * columns / usable_cores()


def _parallel(problem: _Problem, folds: Folds) -> int:
    """Return how many folds are fitted at once: the cores that the columns leave idle."""
    return max(1, min(folds.count, usable_cores() // problem.columns.shape[1]))


def _cross_validated(problem: _Problem, folds: Folds, strength: float, progress: Progress) -> tuple[float, float]:
    """Return the loss of a strength on rows that were not fitted, and the spread of the errors on them."""

    def one(fold: int) -> NDArray[np.float64]:
        inside, outside = folds.validation(fold), folds.training(fold)
        solution = problem.solve(outside, strength, ROUGH)
        scores = np.asarray(problem.matrix[inside] @ solution.weights.astype(np.float64)) + solution.biases
        amounts = problem.rows[inside]
        errors = ((scores - problem.columns[inside]) ** 2).mean(axis=1)
        return np.array([amounts @ _losses(problem, scores, inside), amounts @ errors, amounts.sum()])

    sums = np.zeros(3)
    with ThreadPoolExecutor(max_workers=_parallel(problem, folds)) as pool:
        for found in pool.map(one, range(folds.count)):
            sums += found
            progress.advance()
    return float(sums[0] / sums[2]), float((sums[1] / sums[2]) ** 0.5)


def _losses(problem: _Problem, scores: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    if problem.is_ridge:
        return ((scores - problem.columns[rows]) ** 2).mean(axis=1)
    said = from_scores(scores, problem.kind, problem.classes, 0.0)
    targets = problem.targets[rows]
    losses = -(targets * np.log(np.maximum(said, _LEAST)))
    if problem.kind == "labels":
        losses -= (1 - targets) * np.log(np.maximum(1 - said, _LEAST))
    return losses.sum(axis=1)


def _in_sample_spread(problem: _Problem, found: Solution) -> float:
    """Return the spread of the errors where no rows could be held out; half a class at least, since they flatter."""
    if problem.kind != "ordinal":
        return 0.0
    errors = np.asarray(problem.matrix @ found.weights.astype(np.float64)) + found.biases - problem.columns
    return max(0.5, float(np.sqrt((errors**2).mean())))

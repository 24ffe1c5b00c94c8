"""Out-of-fold predictions of a linear model: what is said of each row by a model that never saw it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.progress import Progress
from lavra.data.folds import Folds
from lavra.models.linear.features import Texts
from lavra.models.linear.fitting import fit_linear
from lavra.models.linear.model import Kind


def linear_out_of_fold(
    texts: Texts,
    targets: ArrayLike,
    folds: Folds,
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
) -> NDArray[np.float64]:
    """Return the predictions of each row by a model that was fitted to the training rows of its fold.

    The features, their document frequencies and the penalty are chosen from the training rows of each fold alone, by
    `fit_linear`, which also explains the other arguments. A time limit is shared by the folds that are left.

    Args:
        texts: Rows of one text, or of two.
        targets: Probability of each class or label, or the values, (rows, classes); NaN where nothing is known.
        folds: Folds of the rows.
        classes: Names of the classes, labels or values.
        kind: What is predicted.
        weights: Weight of each row, (rows,).
        class_weights: Weight of each class, or "balanced".
        groups: What each row belongs to.
        strength: Inverse strength of the penalty; None chooses one in each fold.
        seconds: Time for all folds, in seconds, or a function that returns the seconds left; None for no limit.
        seed: Seed of the inner folds.
        clock: Returns the time in seconds.

    Returns:
        (rows, classes) predictions; NaN for rows that are validated in no fold, as the earliest ones of folds by time.

    Raises:
        InputError: If the training rows of a fold do not suffice; see `fit_linear`.
    """
    goal = np.asarray(targets, dtype=np.float64)
    amounts = np.ones(len(texts)) if weights is None else np.asarray(weights, dtype=np.float64)
    start = clock()
    left = seconds if callable(seconds) else (lambda: np.inf if seconds is None else seconds - (clock() - start))
    found = np.full((len(texts), len(classes)), np.nan)
    with Progress("linear models of the folds", total=folds.count, unit="folds") as progress:
        for fold in range(folds.count):
            inside, outside = folds.validation(fold), folds.training(fold)
            still = folds.count - fold
            model = fit_linear(
                [texts[row] for row in outside.tolist()],  # pyright: ignore[reportArgumentType]
                goal[outside],
                classes,
                kind,
                weights=amounts[outside],
                class_weights=class_weights,
                groups=None if groups is None else [groups[row] for row in outside.tolist()],
                strength=strength,
                seconds=_share_of(left(), still, clock),
                seed=seed,
                clock=clock,
            )
            found[inside] = model.predict_proba([texts[row] for row in inside.tolist()])  # pyright: ignore[reportArgumentType]
            progress.advance()
    return found


def _share_of(seconds: float, folds: int, clock: Callable[[], float]) -> Callable[[], float]:
    """Return a function that says how much is left of an equal share of the time."""
    end = clock() + seconds / folds
    return lambda: end - clock()

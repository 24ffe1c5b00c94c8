"""The permuted-label test: a whole pipeline is run on shuffled labels, of which nothing can be learned.

Whatever it then predicts better than chance, it took from where it must not look: from the labels of the rows on which
it is measured. The labels are shuffled within each fold, so that what a pipeline rightly learns from the other folds
says nothing of the order of the labels in its own. The score on other shuffles of the same labels is therefore exactly
what chance gives, for every metric.

One fold is measured. The predictions of two folds depend on the labels of each other, so that their scores rise and
fall together: a model that compares rows two by two gives both folds the same surplus, and the sum of them is 1.4 times
as wide as the shuffles of both would have it. Where chance should alarm once in a thousand times, it then would in
thirteen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.core.progress import track
from lavra.core.seeds import numpy_stream
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.baselines import majority_out_of_fold
from lavra.evaluation.labels.metric_formulas import statistics_of
from lavra.evaluation.labels.metrics import SMALLER_IS_BETTER, metric_value, scores
from lavra.evaluation.labels.predictions import NO_FOLD, Kind, Predictions

Pipeline = Callable[[Sequence[Any], NDArray[np.float64], NDArray[np.int64]], Any]
"""Function of (rows, targets, folds) that returns out-of-fold predictions, (n, K); or these and the decisions on them.

The targets are (n, K), NaN where nothing is known, and the folds (n,)."""

METRIC: dict[Kind, str] = {
    "classes": "accuracy",
    "labels": "micro_f1",
    "values": "pearson",
    "ordinal": "quadratic_kappa",
}
"""The metric of the test by the kind of predictions."""

LIMIT = 0.001
"""Probability of a false alarm."""

SHUFFLES = 999  # shuffles that show what chance gives: none of them may be as good as the score of a leak


@dataclass(frozen=True)
class PermutedLabels:
    """The outcome of the test.

    Attributes:
        metric: Name of the metric.
        score: The pipeline's score on the shuffled labels of the measured fold.
        chance: Mean and 99.8 % range of the score on other shuffles, which is what chance gives.
        majority: Score of the majority of the other folds on the shuffled labels, with its interval.
        p_value: Probability that chance gives a score as good.
        leaks: Whether that is less than `LIMIT`: the pipeline sees labels on which it is measured.
    """

    metric: str
    score: float
    chance: Estimate
    majority: Estimate
    p_value: float
    leaks: bool

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        plain = {name: getattr(self, name) for name in ("metric", "score", "p_value", "leaks")}
        return {**plain, "chance": self.chance.to_json(), "majority": self.majority.to_json()}


def permuted_label_test(
    rows: Sequence[Any], table: Predictions, pipeline: Pipeline, *, metric: str | None = None, seed: int = 0
) -> PermutedLabels:
    """Shuffle the labels once, run a pipeline, and test whether it predicts them better than chance.

    Args:
        rows: Texts or rows, in the order of the table; they are handed on to the pipeline.
        table: Targets and folds of the rows; the predictions in it are not looked at. The rows of the largest fold are
            measured. All others are shuffled too and may be trained on, also those of `NO_FOLD`, such as the earliest
            ones of folds by time.
        pipeline: The whole pipeline, with everything that reads labels: choices, thresholds, pseudo-labels, ensembles.
        metric: Name of the metric; None for that of `METRIC`.
        seed: Seed of the shuffles.

    Raises:
        InputError: If no row has a fold, or the pipeline returns no predictions.

    Examples:
        A pipeline that looks at the labels is caught:

        >>> from lavra.evaluation.labels.predictions import one_hot
        >>> targets = one_hot(np.arange(60) % 2, 2)
        >>> table = Predictions(range(60), targets, targets, ["no", "yes"], folds=np.arange(60) // 20)
        >>> permuted_label_test([""] * 60, table, lambda rows, targets, folds: 0.2 + 0.6 * targets).leaks
        True
        >>> permuted_label_test([""] * 60, table, lambda rows, targets, folds: np.full((60, 2), 0.5)).leaks
        False
    """
    if (table.folds == NO_FOLD).all():
        raise InputError("no row has a fold, so that nothing is measured", "give the fold of each row")
    metric = metric or METRIC[table.kind]
    shuffled = replace(table, targets=shuffled_targets(table, seed))
    said = pipeline(rows, shuffled.targets.copy(), table.folds.copy())
    probabilities, decisions = said if isinstance(said, tuple) else (said, None)
    if np.shape(probabilities) != table.targets.shape:
        raise InputError(
            f"the pipeline returned predictions of the shape {np.shape(probabilities)} for {len(table)} rows",
            f"return {table.targets.shape}",
        )
    there = shuffled.known & (shuffled.folds == _largest_fold(shuffled))
    measured = replace(shuffled.select(there), probabilities=np.asarray(probabilities, dtype=np.float64)[there])
    decided = measured.decisions() if decisions is None else np.asarray(decisions)[there]
    score = metric_value(measured, metric, decided)
    by_chance = np.empty(SHUFFLES)
    for number in track(range(SHUFFLES), "shuffled labels", total=SHUFFLES, unit="shuffles"):
        again = measured.with_shuffled(shuffled_targets(measured, seed, number + 1))
        by_chance[number] = statistics_of(again, decided, (metric,))[0].values()[metric]
    better = by_chance <= score + 1e-12 if metric in SMALLER_IS_BETTER else by_chance >= score - 1e-12
    p_value = (1 + int(better.sum())) / (1 + SHUFFLES)
    low, high = np.quantile(by_chance, [LIMIT, 1 - LIMIT])
    return PermutedLabels(
        metric,
        score,
        Estimate(float(by_chance.mean()), float(low), float(high)),
        scores(_majority(shuffled, there), names=(metric,)).metrics[metric],
        p_value,
        p_value <= LIMIT,
    )


def _largest_fold(table: Predictions) -> int:
    """Return the fold with most rows of which something is known; the first of several."""
    folds, counts = np.unique(table.folds[table.known & (table.folds != NO_FOLD)], return_counts=True)
    if not len(folds):
        raise InputError("no row with a label has a fold, so that nothing is measured", "give the fold of each row")
    return int(folds[counts.argmax()])


def _majority(table: Predictions, measured: NDArray[np.bool_]) -> Predictions:
    """Return what the majority of the other rows says of the rows that are measured."""
    apart = replace(table, folds=np.where(measured, 0, 1)).select(table.known)
    return majority_out_of_fold(apart).select(measured[table.known])


def shuffled_targets(table: Predictions, seed: int, number: int = 0) -> NDArray[np.float64]:
    """Return the targets of a table, (n, K), shuffled within each fold; rows without a target keep none.

    Args:
        table: The table.
        seed: Seed of the shuffles.
        number: Number of the shuffle.
    """
    random = numpy_stream(seed, "permuted labels", number)
    targets, known = table.targets.copy(), table.known
    for fold in np.unique(table.folds):
        places = np.flatnonzero((table.folds == fold) & known)
        targets[places] = table.targets[random.permutation(places)]
    return targets

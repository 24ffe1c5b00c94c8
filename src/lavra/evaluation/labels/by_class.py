"""Precision, recall and F1 of each class or label, with intervals that also hold for a few rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.predictions import Predictions

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class ClassScores:
    """How well one class or label is found.

    Attributes:
        name: Its name.
        rows: Number of rows that it is right for (its support).
        hits: Number of those for which it was predicted.
        false_alarms: Number of other rows for which it was predicted.
        others: Number of rows that are neither.
        precision: Share of the predictions that are right; None where it was never predicted.
        recall: Share of its rows that were found; None where it has no row.
        f1: 2 · hits / (rows + predictions); None where there are neither.
    """

    name: str
    rows: int
    hits: int
    false_alarms: int
    others: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None

    @property
    def misses(self) -> int:
        """Number of its rows for which it was not predicted."""
        return self.rows - self.hits


def scores_by_class(table: Predictions, decisions: NDArray[Any] | None = None) -> list[ClassScores]:
    """Return the scores of every class or label, in the order of the table.

    The 95 % intervals are those of Wilson (1927) for a share, which neither leave 0 to 1 nor shrink to a point where
    all of a few rows are right, as those of a bootstrap do. The F1 is 2s / (1 + s) of the share s of hits among all
    rows that have the class or were given it, and rises with it, so that its interval is that of s, transformed.

    Args:
        table: Predictions of classes or labels. Rows of which nothing is known are left out.
        decisions: What is decided for each row, see `metrics.scores`.

    Examples:
        >>> table = Predictions("abc", [[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], ["no", "yes"])
        >>> no, yes = scores_by_class(table)
        >>> no.rows, no.hits, no.precision.value, no.recall.value, round(no.precision.low, 2)
        (2, 1, 1.0, 0.5, 0.21)
    """
    known = table.known
    decided = (table.decisions() if decisions is None else np.asarray(decisions))[known]
    truth = table.select(known).truth()
    size = len(table.classes)
    if table.kind != "labels":
        truth, decided = (np.eye(size, dtype=bool)[side] for side in (truth, decided))
    hits, rows, given = ((side).sum(axis=0).tolist() for side in (truth & decided, truth, decided))
    return [_scores(name, len(truth), *counts) for name, *counts in zip(table.classes, hits, rows, given, strict=True)]


def _scores(name: str, total: int, hits: int, rows: int, given: int) -> ClassScores:
    either = rows + given - hits
    return ClassScores(
        name=name,
        rows=rows,
        hits=hits,
        false_alarms=given - hits,
        others=total - either,
        precision=share(hits, given) if given else None,
        recall=share(hits, rows) if rows else None,
        f1=share(hits, either).through(lambda one: 2 * one / (1 + one)) if either else None,
    )


def share(hits: float, count: float) -> Estimate:
    """Return a share with its 95 % interval (Wilson 1927, "Probable Inference").

    Args:
        hits: Number of hits.
        count: Number of trials, above 0.

    Examples:
        >>> found = share(9, 10)
        >>> found.value, round(found.low, 3), round(found.high, 3)
        (0.9, 0.596, 0.982)
    """
    found, z2 = hits / count, _Z**2
    middle = (found + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(found * (1 - found) / count + z2 / (4 * count**2))
    # A share of 0 or 1 is an end of its own interval, but for the rounding.
    return Estimate(found, max(0.0, min(found, middle - half)), min(1.0, max(found, middle + half)))

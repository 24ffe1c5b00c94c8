"""Retrieval measures in NumPy, identical to those of trec_eval: one tie rule, and unanswered queries count as zero.

The rule for ties is trec_eval's: documents are ordered by score, compared as 32-bit floats, from high to low, and equal
scores by document id from high to low. Every measure here uses that one order. The mean is over every query of the
judgements (`trec_eval -c`): a query that the run does not answer scores zero in every measure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.intervals import FEWEST_DOCUMENTS, Estimate, interval, resampled_sums

Qrels = Mapping[str, Mapping[str, int]]
"""Judgements: query id -> document id -> grade; a grade of 1 or more is relevant."""

MEASURES = ("nDCG@10", "MRR@10", "MAP", "Recall@100", "Recall@1000", "Judged@10")
"""The measures of a retrieval experiment, by their usual names."""

UNJUDGED = -(2**31)
"""The gain of a result that nobody judged (judged grades may be negative too, for junk pages)."""


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Every measure of every judged query.

    Attributes:
        queries: ids of the judged queries, sorted.
        measures: names of the measures.
        values: (queries, measures) float64.
        unanswered: number of judged queries for which the run holds nothing; they count as zero.
    """

    queries: tuple[str, ...]
    measures: tuple[str, ...]
    values: NDArray[np.float64]
    unanswered: int = 0

    def of(self, measure: str) -> NDArray[np.float64]:
        """Return the values of one measure, (queries,)."""
        return self.values[:, self.measures.index(measure)]

    def means(self) -> dict[str, float]:
        """Return the mean of each measure over all judged queries."""
        return {name: float(mean) for name, mean in zip(self.measures, self.values.mean(axis=0), strict=True)}

    def estimates(self, *, draws: int = 2000, seed: int = 0) -> dict[str, Estimate]:
        """Return the mean of each measure with its 95 % bootstrap interval over queries."""
        return mean_estimates(self.values, self.measures, draws=draws, seed=seed)


def mean_estimates(
    values: NDArray[np.float64], names: Sequence[str], *, draws: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the mean of each column of `values` (queries, columns), resampling the queries.

    Two calls with equally many queries and the same seed resample the same queries, so that differences of systems
    are paired.
    """
    means = values.mean(axis=0)
    if len(values) < FEWEST_DOCUMENTS:
        return {name: Estimate(float(mean)) for name, mean in zip(names, means, strict=True)}
    sums = resampled_sums(np.column_stack([values, np.ones(len(values))]), draws=draws, seed=seed)
    drawn = sums[:, :-1] / sums[:, -1:]  # the number of queries drawn varies when groups of them are resampled
    return {
        name: Estimate(float(means[column]), *interval(drawn[:, column], len(values)))
        for column, name in enumerate(names)
    }


def measure_ranking(
    gains: NDArray[np.int64], grades: NDArray[np.int64], measures: Sequence[str] = MEASURES
) -> NDArray[np.float64]:
    """Return the measures of one query.

    Args:
        gains: (results,) grade of each result in rank order; `UNJUDGED` where the document has none.
        grades: (judged,) every grade that the judgements hold for this query, in any order.
        measures: names, see `parse_measure`.

    Returns:
        (measures,) float64; all zero without results or, except for Judged, without a relevant document.
    """
    relevant = gains >= 1
    total = int((grades >= 1).sum())
    return np.array([_measure(*parse_measure(name), gains, grades, relevant, total) for name in measures])


def parse_measure(name: str) -> tuple[str, int | None]:
    """Return kind and cutoff: `nDCG@10` gives ("nDCG", 10), `MAP` gives ("MAP", None).

    Raises:
        InputError: for a measure that is none of nDCG, MRR, MAP, Recall, P and Judged.
    """
    match = re.fullmatch(r"(nDCG|MRR|MAP|Recall|P|Judged)(?:@([1-9]\d*))?", name)
    if match is None or (match[1] in ("P", "Judged") and match[2] is None):
        raise InputError(
            f"{name!r} is not a retrieval measure",
            "use nDCG@10, MRR@10, MAP, Recall@100, P@5 or Judged@10, with any cutoff",
        )
    return match[1], int(match[2]) if match[2] else None


def _measure(
    kind: str,
    cutoff: int | None,
    gains: NDArray[np.int64],
    grades: NDArray[np.int64],
    relevant: NDArray[np.bool_],
    total: int,
) -> float:
    shown = gains[:cutoff]
    if not len(shown):
        return 0.0
    if kind == "Judged":
        return float((shown != UNJUDGED).mean())
    hits = np.flatnonzero(relevant[:cutoff])
    if total == 0 or not len(hits):
        return 0.0
    if kind == "MRR":
        return 1.0 / (hits[0] + 1)
    if kind == "Recall":
        return len(hits) / total
    if kind == "P":
        return len(hits) / (cutoff or len(shown))
    if kind == "MAP":
        return float((np.arange(1, len(hits) + 1) / (hits + 1)).sum()) / total
    ideal = np.sort(grades[grades >= 1])[::-1][:cutoff]
    return _discounted(shown[hits], hits) / _discounted(ideal, np.arange(len(ideal)))


def _discounted(gains: NDArray[np.int64], places: NDArray[np.int64]) -> float:
    """Return the discounted cumulative gain of `gains` at these places, counted from 0 (linear gain, as trec_eval)."""
    return float((gains / np.log2(places + 2)).sum())

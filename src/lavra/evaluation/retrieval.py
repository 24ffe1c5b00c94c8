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
"""Relevance judgements: the grade of each document, under the query id and the document id. A grade of 1 or more means
relevant."""

MEASURES = ("nDCG@10", "MRR@10", "MAP", "Recall@100", "Recall@1000", "Judged@10")
"""Measures of a retrieval experiment, by their usual names."""

UNJUDGED = -(2**31)
"""Gain of a result that nobody judged. It is no possible grade: collections grade junk pages below zero too."""


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Every measure of every judged query.

    Attributes:
        queries: Ids of the judged queries, sorted.
        measures: Names of the measures.
        values: Value of each measure for each query, (queries, measures) float64.
        unanswered: Number of judged queries for which the run holds no result; they count as zero.

    Examples:
        >>> scores = RetrievalScores(("q1", "q2"), ("MRR@10",), np.array([[1.0], [0.5]]))
        >>> scores.means()
        {'MRR@10': 0.75}
    """

    queries: tuple[str, ...]
    measures: tuple[str, ...]
    values: NDArray[np.float64]
    unanswered: int = 0

    def of(self, measure: str) -> NDArray[np.float64]:
        """Return the values of one measure, (queries,).

        Args:
            measure: Name of one of the measures.
        """
        return self.values[:, self.measures.index(measure)]

    def means(self) -> dict[str, float]:
        """Return the mean of each measure over all judged queries."""
        return {name: float(mean) for name, mean in zip(self.measures, self.values.mean(axis=0), strict=True)}

    def estimates(self, *, draws: int = 2000, seed: int = 0) -> dict[str, Estimate]:
        """Return the mean of each measure with its 95 % bootstrap interval over queries.

        Args:
            draws: Number of bootstrap resamples.
            seed: Seed of the bootstrap.
        """
        return mean_estimates(self.values, self.measures, draws=draws, seed=seed)


def mean_estimates(
    values: NDArray[np.float64], names: Sequence[str], *, draws: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Return the mean of each column with its 95 % bootstrap interval over queries.

    Two calls with equally many queries and the same seed draw the same queries, so that differences between systems
    are paired.

    Args:
        values: One row for each query, (queries, columns).
        names: Name of each column.
        draws: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Examples:
        >>> values = np.array([[1.0], [0.5], [0.0], [1.0], [0.25], [0.5]])
        >>> found = mean_estimates(values, ["MRR@10"])["MRR@10"]
        >>> round(found.value, 3), found.low < found.value < found.high
        (0.542, True)
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
        gains: Grade of each result, best rank first, (results,); `UNJUDGED` where nobody judged the document.
        grades: All grades that the judgements hold for this query, in any order, (judged documents,).
        measures: Names of the measures, as `parse_measure` reads them.

    Returns:
        The value of each measure, (measures,) float64. All are zero without results, and all but Judged are zero
        without a relevant document.

    Raises:
        InputError: If a name is not that of a measure.

    Examples:
        The first result is relevant, the second unjudged, and one of the two relevant documents was not found:

        >>> values = measure_ranking(np.array([1, UNJUDGED]), np.array([1, 1]), ["nDCG@10", "MRR@10", "Recall@100"])
        >>> values.round(4).tolist()
        [0.6131, 1.0, 0.5]
    """
    relevant = gains >= 1
    total = int((grades >= 1).sum())
    return np.array([_measure(*parse_measure(name), gains, grades, relevant, total) for name in measures])


def parse_measure(name: str) -> tuple[str, int | None]:
    """Return the kind and the cutoff of a measure.

    Args:
        name: nDCG, MRR, MAP, Recall, P or Judged, with an optional cutoff such as `@10`. P and Judged need one.

    Returns:
        The kind, and the number of results that count (None where all do).

    Raises:
        InputError: If the name is not that of a measure.

    Examples:
        >>> parse_measure("nDCG@10"), parse_measure("MAP")
        (('nDCG', 10), ('MAP', None))
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
    """Return the discounted cumulative gain of `gains` at ranks that are counted from 0.

    The gain is linear, as in trec_eval (Järvelin and Kekäläinen 2002), and not 2^grade - 1.
    """
    return float((gains / np.log2(places + 2)).sum())

"""Running judged queries against an index: the measures of each query, and the latency."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.core.progress import track
from lavra.evaluation.retrieval import MEASURES, UNJUDGED, Qrels, RetrievalScores, measure_ranking
from lavra.search.index.index import Index
from lavra.search.index.snapshot import Snapshot

DEPTH = 1000
"""Number of results of a query that are measured, which is usual in the field."""

_TIMED = 500
"""Most queries whose latency is measured."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The time that the ten best documents of a query take, with the analysis of the query.

    Attributes:
        p50: The median in milliseconds.
        p95: The 95th percentile in milliseconds.
        p99: The 99th percentile in milliseconds.
        queries: Number of queries that were timed.
    """

    p50: float
    p95: float
    p99: float
    queries: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Return the percentiles of the seconds that the queries took, in milliseconds.

        Args:
            seconds: The seconds of each query.

        Examples:
            >>> Latency.of([0.001, 0.001]).p50
            1.0
        """
        percentiles = np.percentile(np.array(seconds) * 1000, [50, 95, 99])
        return cls(*(float(value) for value in percentiles), queries=len(seconds))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query with its judgements by document number.

    Attributes:
        id: The id of the query.
        text: The text of the query.
        terms: The numbers of its terms in the index.
        numbers: (judged,) sorted numbers of the judged documents that are in the index.
        found_grades: (judged,) grades of these documents.
        grades: (all judged,) grades of all judged documents, also of those that are not in the index.
    """

    id: str
    text: str
    terms: list[int]
    numbers: NDArray[np.int64]
    found_grades: NDArray[np.int64]
    grades: NDArray[np.int64]


def judged_queries(index: Index, queries: Mapping[str, str], qrels: Qrels) -> list[JudgedQuery]:
    """Convert queries and judgements to the term and document numbers of an index.

    Judged queries without a text are left out. Judged documents that are not in the index count as never found.

    Args:
        index: The index.
        queries: The text of each query by its id.
        qrels: The grade by query id and document id.

    Returns:
        The judged queries, sorted by id.

    Raises:
        InputError: If no judged query has a text, or no judged document is in the index.
    """
    snapshot = index.snapshot
    if snapshot is None:
        raise InputError(f"{index.folder} holds no searchable documents yet", "run `lavra index` to its end")
    numbers = {name: snapshot.number_of(name) for judged in qrels.values() for name in judged}
    found = []
    for query in sorted(qrels):
        if query not in queries:
            continue
        judged = qrels[query]
        pairs = sorted((number, grade) for name, grade in judged.items() if (number := numbers[name]) is not None)
        places, grades = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        every = np.array(list(judged.values()), dtype=np.int64)
        found.append(JudgedQuery(query, queries[query], index.query_terms(queries[query]), places, grades, every))
    if not any(len(query.numbers) for query in found):
        raise InputError(
            "no judged query and document are known to the index",
            "check that corpus, queries and judgements belong to the same collection",
        )
    return found


def gains_of(query: JudgedQuery, results: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the grade of each result.

    Args:
        query: The judged query.
        results: (results,) numbers of the documents, best first.

    Returns:
        (results,) grades, `UNJUDGED` for documents without one.
    """
    gains = np.full(len(results), UNJUDGED, dtype=np.int64)
    if len(query.numbers):
        places = np.minimum(query.numbers.searchsorted(results), len(query.numbers) - 1)
        judged = query.numbers[places] == results
        gains[judged] = query.found_grades[places[judged]]
    return gains


def evaluate(
    snapshot: Snapshot, queries: Sequence[JudgedQuery], measures: Sequence[str] = MEASURES, *, depth: int = DEPTH
) -> RetrievalScores:
    """Search for every query and measure the rankings; queries without any result count as zero.

    Args:
        snapshot: The snapshot of the index to search.
        queries: The judged queries.
        measures: The names of the measures.
        depth: Number of results of a query that are measured.
    """
    values = np.zeros((len(queries), len(measures)))
    unanswered = 0
    for row, query in enumerate(track(queries, "searching", len(queries), "queries")):
        results, _ = snapshot.search(query.terms, depth)
        if len(results):
            values[row] = measure_ranking(gains_of(query, results), query.grades, measures)
        else:
            unanswered += 1
    return RetrievalScores(tuple(query.id for query in queries), tuple(measures), values, unanswered)


def measure_latency(index: Index, snapshot: Snapshot, queries: Sequence[JudgedQuery]) -> Latency:
    """Measure the latency of up to 500 queries, one after the other, after 50 queries to warm up.

    The time includes the analysis of the query and reading the ids of ten documents, but not reading their texts.

    Args:
        index: The index, which analyzes the queries.
        snapshot: The snapshot of the index to search.
        queries: The judged queries, from which evenly spaced ones are taken.
    """
    step = max(1, len(queries) // _TIMED)
    chosen = queries[::step][:_TIMED]
    seconds = []
    for query in [*chosen[:50], *chosen]:
        start = time.perf_counter()
        numbers, _ = snapshot.search(index.query_terms(query.text), 10)
        for number in numbers.tolist():
            snapshot.id_of(number)
        seconds.append(time.perf_counter() - start)
    return Latency.of(seconds[len(chosen[:50]) :])

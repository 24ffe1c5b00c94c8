"""Running judged queries against an index: the measures, the order, and how long a query takes."""

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
from lavra.search.index.snapshot import Generation

DEPTH = 1000
"""Results per query that the measures look at, as is usual in the field."""

_TIMED = 500


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the ten best documents of a query take, its analysis included.

    Attributes:
        p50: median, in milliseconds.
        p95: 95th percentile.
        p99: 99th percentile.
        queries: number of queries that were timed.
    """

    p50: float
    p95: float
    p99: float
    queries: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Return the percentiles of the seconds that each query took."""
        percentiles = np.percentile(np.array(seconds) * 1000, [50, 95, 99])
        return cls(*(float(value) for value in percentiles), queries=len(seconds))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query and its judgements by document number.

    Attributes:
        id: of the query.
        text: as people wrote it.
        terms: its term numbers in the index.
        numbers: (judged,) sorted numbers of the judged documents that the index has.
        found_grades: (judged,) their grades.
        grades: grades of all judged documents, also of those that the index lacks.
    """

    id: str
    text: str
    terms: list[int]
    numbers: NDArray[np.int64]
    found_grades: NDArray[np.int64]
    grades: NDArray[np.int64]


def judged_queries(index: Index, queries: Mapping[str, str], qrels: Qrels) -> list[JudgedQuery]:
    """Bring queries and judgements into the numbers of an index, sorted by query id.

    Judged queries without a text are left out; documents that the index lacks count as relevant but never found.

    Raises:
        InputError: if no judged query has a text, or no judged document is in the index.
    """
    generation = index.generation
    if generation is None:
        raise InputError(f"{index.folder} holds no searchable documents yet", "run `lavra index` to its end")
    numbers = {name: generation.number_of(name) for judged in qrels.values() for name in judged}
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
    """Return the grade of each result in rank order, `UNJUDGED` where it has none."""
    gains = np.full(len(results), UNJUDGED, dtype=np.int64)
    if len(query.numbers):
        places = np.minimum(query.numbers.searchsorted(results), len(query.numbers) - 1)
        judged = query.numbers[places] == results
        gains[judged] = query.found_grades[places[judged]]
    return gains


def evaluate(
    generation: Generation, queries: Sequence[JudgedQuery], measures: Sequence[str] = MEASURES, *, depth: int = DEPTH
) -> RetrievalScores:
    """Search every query and measure the rankings; unanswered queries count as zero."""
    values = np.zeros((len(queries), len(measures)))
    unanswered = 0
    for row, query in enumerate(track(queries, "searching", len(queries), "queries")):
        results, _ = generation.search(query.terms, depth)
        if len(results):
            values[row] = measure_ranking(gains_of(query, results), query.grades, measures)
        else:
            unanswered += 1
    return RetrievalScores(tuple(query.id for query in queries), tuple(measures), values, unanswered)


def measure_latency(index: Index, generation: Generation, queries: Sequence[JudgedQuery]) -> Latency:
    """Time up to 500 queries one by one, after 50 to warm up; reading ids is part of it, reading texts is not."""
    step = max(1, len(queries) // _TIMED)
    chosen = queries[::step][:_TIMED]
    seconds = []
    for query in [*chosen[:50], *chosen]:
        start = time.perf_counter()
        numbers, _ = generation.search(index.query_terms(query.text), 10)
        for number in numbers.tolist():
            generation.id_of(number)
        seconds.append(time.perf_counter() - start)
    return Latency.of(seconds[len(chosen[:50]) :])

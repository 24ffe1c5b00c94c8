"""Measuring search by vectors, its fusion with BM25, and reranking: the same searcher as that of `lavra search`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavra.core.progress import track
from lavra.core.seeds import numpy_stream
from lavra.evaluation.retrieval import MEASURES, RetrievalScores, measure_ranking
from lavra.search.experiment.retrieval import DEPTH, JudgedQuery, Latency, gains_of
from lavra.search.index.index import Index
from lavra.search.index.snapshot import Snapshot
from lavra.search.ranking import Ranking, by_weight
from lavra.search.reranking import Reranker
from lavra.search.searcher import RERANKED, Searcher
from lavra.vectors.protocols import TextEncoder

DENSE = "dense"
"""Name of the system that searches by vectors alone."""

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
"""Weights of the vectors that are tried, from 0 (words alone) to 1 (vectors alone)."""


@dataclass(frozen=True)
class Beside:
    """What is measured beside BM25.

    Attributes:
        encoder: The encoder of the vectors of the index; None for no search by vectors.
        reranker: Ranks the first results anew; None for no reranking.
        rerank_depth: Number of results that the reranker reads.
    """

    encoder: TextEncoder | None = None
    reranker: Reranker | None = None
    rerank_depth: int = RERANKED


@dataclass(frozen=True, slots=True)
class FusionTuning:
    """The result of a grid search over the weight of the vectors in a fusion.

    Attributes:
        weight: The best weight, from 0 to 1.
        measure: The name of the measure that was maximised.
        value: The mean of the measure with the best weight.
        tried: Every (weight, value), in the order of the grid.
        queries: Number of validation queries.
    """

    weight: float
    measure: str
    value: float
    tried: tuple[tuple[float, float], ...]
    queries: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        return {name: getattr(self, name) for name in self.__slots__}


def tune_weight(
    index: Index,
    snapshot: Snapshot,
    encoder: TextEncoder,
    queries: Sequence[JudgedQuery],
    *,
    measure: str = "MRR@10",
    most_queries: int = 1000,
    seed: int = 0,
) -> FusionTuning:
    """Tune the weight of the vectors in a fusion by grid search.

    Args:
        index: The index, which has vectors.
        snapshot: What is searched by words.
        encoder: The encoder of the vectors.
        queries: The queries of the validation split, none of which is reported on.
        measure: The name of the measure to maximise.
        most_queries: Most queries; a random sample is taken where there are more.
        seed: Seed of the sample.

    Returns:
        The best weight, the one nearest to 0.5 among equally good ones.
    """
    if len(queries) > most_queries:
        drawn = numpy_stream(seed, "queries for tuning").permutation(len(queries))[:most_queries]
        queries = [queries[number] for number in sorted(drawn.tolist())]
    values = np.zeros((len(WEIGHTS), len(queries)))
    searcher = Searcher(index, "hybrid", encoder, snapshot=snapshot)
    vectors = encoder.encode([query.text for query in queries], kind="query")
    for row, query in enumerate(queries):
        found = searcher.answer(query.text, DEPTH, vector=vectors[row])
        assert found.lexical is not None
        assert found.dense is not None
        for place, weight in enumerate(WEIGHTS):
            fused = by_weight(found.lexical, found.dense, weight, snapshot.ranks, 100)
            values[place, row] = _measured(query, fused, (measure,))[0]
    means = values.mean(axis=1).tolist()
    best = max(range(len(WEIGHTS)), key=lambda place: (means[place], -abs(WEIGHTS[place] - 0.5)))
    return FusionTuning(
        WEIGHTS[best], measure, means[best], tuple(zip(WEIGHTS, means, strict=True)), queries=len(queries)
    )


def searchers_beside(
    index: Index,
    beside: Beside,
    lexical: Mapping[str, Snapshot],
    validation: Sequence[JudgedQuery] | None = None,
    *,
    measure: str = "MRR@10",
    seed: int = 0,
) -> dict[str, tuple[Searcher, FusionTuning | None]]:
    """Return the systems beside BM25, by name: by vectors, fused with each of several BM25 systems, and reranked.

    Args:
        index: The index of the documents.
        beside: What is measured.
        lexical: What BM25 searches, by the name of the system; the last one is also reranked, fused where that can be.
        validation: Queries on which the weight of a fusion is tuned; None for fusing by reciprocal ranks only.
        measure: The name of the measure that is maximised.
        seed: Seed of the sample of validation queries.

    Returns:
        The searcher of each system, and how its weight was tuned.
    """
    found: dict[str, tuple[Searcher, FusionTuning | None]] = {}
    if beside.encoder is not None:
        found[DENSE] = Searcher(index, "dense", beside.encoder), None
        for name, snapshot in lexical.items():
            found[f"{name}, fused with dense"] = Searcher(index, "hybrid", beside.encoder, snapshot=snapshot), None
            if validation:
                tuned = tune_weight(index, snapshot, beside.encoder, validation, measure=measure, seed=seed)
                fused = Searcher(index, "hybrid", beside.encoder, weight=tuned.weight, snapshot=snapshot)
                found[f"{name}, fused with dense by weight"] = fused, tuned
    if beside.reranker is not None:
        name, snapshot = list(lexical.items())[-1]
        searcher = Searcher(
            index,
            "lexical" if beside.encoder is None else "hybrid",
            beside.encoder,
            reranker=beside.reranker,
            rerank_depth=beside.rerank_depth,
            snapshot=snapshot,
        )
        found[f"{name}{'' if beside.encoder is None else ', fused with dense'}, reranked"] = searcher, None
    return found


def evaluate_searchers(
    searchers: Mapping[str, Searcher],
    encoder: TextEncoder | None,
    queries: Sequence[JudgedQuery],
    measures: Sequence[str] = MEASURES,
) -> dict[str, tuple[RetrievalScores, Latency]]:
    """Search for every query with several searchers and measure the rankings.

    Args:
        searchers: The searchers by the name of their system.
        encoder: The encoder of the queries; None where no searcher needs one.
        queries: The judged queries.
        measures: The names of the measures.

    Returns:
        Scores and latency of each system by its name. The latency of a query includes embedding it, and is that of the
        thousand results that are measured.
    """
    values = {name: np.zeros((len(queries), len(measures))) for name in searchers}
    seconds: dict[str, list[float]] = {name: [] for name in searchers}
    unanswered = dict.fromkeys(searchers, 0)
    for row, query in enumerate(track(queries, "searching", len(queries), "queries")):
        begun = time.perf_counter()
        vector = encoder.encode([query.text], kind="query")[0] if encoder is not None else None
        embedding = time.perf_counter() - begun
        for name, searcher in searchers.items():
            begun = time.perf_counter()
            ranking = searcher.answer(query.text, DEPTH, vector=vector).ranking
            seconds[name].append(time.perf_counter() - begun + (0.0 if searcher.mode == "lexical" else embedding))
            if len(ranking):
                values[name][row] = _measured(query, ranking, measures)
            else:
                unanswered[name] += 1
    ids = tuple(query.id for query in queries)
    return {
        name: (RetrievalScores(ids, tuple(measures), values[name], unanswered[name]), Latency.of(seconds[name]))
        for name in searchers
    }


def _measured(query: JudgedQuery, ranking: Ranking, measures: Sequence[str]) -> np.ndarray:
    return measure_ranking(gains_of(query, ranking.numbers), query.grades, measures)

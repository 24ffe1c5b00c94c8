"""Runs, query -> document -> score, and their measures by the plain way: rank, look up the grades, measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lavra.evaluation.retrieval import MEASURES, UNJUDGED, Qrels, RetrievalScores, measure_ranking
from lavra.search.index.index import Index

Run = Mapping[str, Mapping[str, float]]


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Return document ids in trec_eval's order: score as 32-bit float descending, then id descending.

    Ids are compared by code point, which is the order of their UTF-8 bytes, as trec_eval's `strcmp` has it.
    """
    ids = sorted(scores, reverse=True)
    values = np.array([scores[name] for name in ids], dtype=np.float32)
    return [ids[place] for place in np.argsort(-values, kind="stable")]


def evaluate_run(qrels: Qrels, run: Run, measures: Sequence[str] = MEASURES) -> RetrievalScores:
    """Measure a run against judgements. Queries of the run without judgements are left out, as in trec_eval."""
    queries = tuple(sorted(qrels))
    values = np.zeros((len(queries), len(measures)))
    unanswered = 0
    for row, query in enumerate(queries):
        results = run.get(query)
        if not results:
            unanswered += 1
            continue
        judged = qrels[query]
        gains = np.array([judged.get(name, UNJUDGED) for name in ranking(results)], dtype=np.int64)
        values[row] = measure_ranking(gains, np.array(list(judged.values()), dtype=np.int64), measures)
    return RetrievalScores(queries, tuple(measures), values, unanswered)


def run_of(index: Index, queries: Mapping[str, str], depth: int = 1000) -> dict[str, dict[str, float]]:
    """Search every query and return a run."""
    run = {}
    for query, text in queries.items():
        numbers, scores = index.search(text, depth)
        run[query] = dict(zip(index.ids(numbers), scores.tolist(), strict=True))
    return run

"""Retrieval measures of vectors: passages ranked by their inner product with a query, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.retrieval import MEASURES, UNJUDGED, Qrels, RetrievalScores, measure_ranking

DEPTH = 1000
"""Results of a query that count, as deep as the usual measures look."""

_SCORES_AT_ONCE = 2**24
"""Inner products that are in memory at once."""


def vector_retrieval(
    queries: NDArray[np.float32],
    query_ids: Sequence[str],
    passages: NDArray[np.float32],
    passage_ids: Sequence[str],
    qrels: Qrels,
    *,
    measures: Sequence[str] = MEASURES,
    depth: int = DEPTH,
) -> RetrievalScores:
    """Return the measures of every judged query, whose passages are ranked by the inner product of the vectors.

    The order of equal scores is that of trec_eval, and a judged query without a vector scores zero; see
    `lavra.evaluation.retrieval`. `RetrievalScores.estimates` gives the intervals.

    Args:
        queries: Vectors of the queries, (queries, dimensions).
        query_ids: Id of each query.
        passages: Vectors of the passages, (passages, dimensions).
        passage_ids: Id of each passage.
        qrels: Relevance judgements.
        measures: Names of the measures.
        depth: Results of a query that count.

    Raises:
        InputError: If the vectors have different dimensions, an id is given twice, or no query is judged.

    Examples:
        >>> passages = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
        >>> qrels = {"q": {"b": 1}}
        >>> found = vector_retrieval(passages[:1], ["q"], passages, ["a", "b"], qrels, measures=["MRR@10"])
        >>> found.means()
        {'MRR@10': 0.5}
    """
    _check(queries, query_ids, passages, passage_ids, qrels)
    places = {name: number for number, name in enumerate(passage_ids)}
    rows = {name: number for number, name in enumerate(query_ids)}
    judged = sorted(qrels)
    answered = [name for name in judged if name in rows]
    # The rank of each id from high to low, which breaks ties.
    ranks = np.empty(len(passage_ids), np.int64)
    ranks[np.argsort(np.array(passage_ids, dtype=object), kind="stable")[::-1]] = np.arange(len(passage_ids))
    values = np.zeros((len(judged), len(measures)))
    at_once = max(1, _SCORES_AT_ONCE // max(1, len(passage_ids)))
    row_of = {name: number for number, name in enumerate(judged)}
    for start in range(0, len(answered), at_once):
        some = answered[start : start + at_once]
        scores = queries[[rows[name] for name in some]] @ passages.T
        for name, of_query in zip(some, scores, strict=True):
            grades = qrels[name]
            gains = np.full(len(passage_ids), UNJUDGED, np.int64)
            known = [(places[one], grade) for one, grade in grades.items() if one in places]
            for place, grade in known:
                gains[place] = grade
            best = _best(of_query, ranks, depth)
            all_grades = np.fromiter(grades.values(), np.int64, len(grades))
            values[row_of[name]] = measure_ranking(gains[best], all_grades, measures)
    return RetrievalScores(tuple(judged), tuple(measures), values, unanswered=len(judged) - len(answered))


def _best(scores: NDArray[np.float32], ranks: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """Return the numbers of the best passages, ties in the order of the ranks."""
    found = np.arange(len(scores))
    if depth < len(scores):
        threshold = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        found = np.flatnonzero(scores >= threshold)
    return found[np.lexsort((ranks[found], -scores[found]))[:depth]]


def _check(
    queries: NDArray[np.float32],
    query_ids: Sequence[str],
    passages: NDArray[np.float32],
    passage_ids: Sequence[str],
    qrels: Qrels,
) -> None:
    if queries.shape[1] != passages.shape[1]:
        raise InputError(
            f"queries of {queries.shape[1]} dimensions cannot be compared with passages of {passages.shape[1]}",
            "make both with one model",
        )
    for what, vectors, ids in (("query", queries, query_ids), ("passage", passages, passage_ids)):
        if len(vectors) != len(ids) or len(set(ids)) != len(ids):
            raise InputError(f"each {what} needs an id of its own", "give as many ids as there are vectors")
    if not qrels:
        raise InputError("no query is judged", "give relevance judgements")

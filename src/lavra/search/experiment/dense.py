"""Dense and hybrid baselines: documents by the cosine of embeddings, and fused with BM25 by reciprocal ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lavra.core.progress import track
from lavra.evaluation.retrieval import MEASURES, RetrievalScores, measure_ranking
from lavra.search.experiment.retrieval import DEPTH, JudgedQuery, Latency, gains_of
from lavra.search.experiment.sentence_models import Embedder
from lavra.search.index.index import Index
from lavra.search.index.postings import best
from lavra.search.index.snapshot import Generation

RANK_CONSTANT = 60
"""Of reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009)."""

_AT_ONCE = 256


@dataclass(frozen=True)
class Vectors:
    """Embeddings of the documents of an index, in its order.

    Attributes:
        values: (documents, width) float32, each of length one.
        model: what made them.
    """

    values: NDArray[np.float32]
    model: Embedder

    @property
    def bytes(self) -> int:
        """Size of the vectors."""
        return self.values.nbytes


def embed_documents(index: Index, model: Embedder) -> Vectors:
    """Embed every document of an index, title and text, cut at what the model reads."""
    texts = (document.contents for document in index.documents())
    parts = [model.documents(some) for some in _batches(track(texts, "embedding", len(index), "documents"))]
    return Vectors(np.concatenate(parts), model)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while some := list(islice(texts, _AT_ONCE)):
        yield some


def dense_ranking(
    vectors: Vectors, query: NDArray[np.float32], ranks: NDArray[np.int32], depth: int = DEPTH
) -> NDArray[np.int64]:
    """Return the numbers of the documents nearest to a query, ties as everywhere (`ranks`)."""
    return best(vectors.values @ query + 2, ranks, depth)  # `best` takes no score of zero for an answer


def fused(rankings: Sequence[NDArray[np.int64]], ranks: NDArray[np.int32], depth: int = DEPTH) -> NDArray[np.int64]:
    """Return one ranking of several by the sum of 1 / (60 + rank), ranks from 1."""
    scores = np.zeros(len(ranks), dtype=np.float32)
    for ranking in rankings:
        scores[ranking] += (1.0 / (RANK_CONSTANT + 1 + np.arange(len(ranking)))).astype(np.float32)
    return best(scores, ranks, depth)


def evaluate_dense(
    index: Index,
    lexical: Mapping[str, Generation],
    vectors: Vectors,
    queries: Sequence[JudgedQuery],
    measures: Sequence[str] = MEASURES,
) -> dict[str, tuple[RetrievalScores, Latency]]:
    """Measure "dense" (exact search by cosine), and it fused with each of some ways to search by terms.

    Args:
        index: of the documents.
        lexical: name -> what is searched by BM25; the fused system is called "NAME, fused with dense".
        vectors: of the documents of the index.
        queries: judged.
        measures: by name.

    Returns:
        Scores and latency of each; the time of a query includes embedding it.
    """
    names = {name: f"{name}, fused with dense" for name in lexical}
    values = {name: np.zeros((len(queries), len(measures))) for name in ("dense", *names.values())}
    seconds: dict[str, list[float]] = {name: [] for name in values}
    for row, query in enumerate(track(queries, "searching by vectors", len(queries), "queries")):
        begun = time.perf_counter()
        near = dense_ranking(vectors, vectors.model.queries([query.text])[0], next(iter(lexical.values())).ranks)
        dense_seconds = time.perf_counter() - begun
        found = {"dense": (near, dense_seconds)}
        for name, generation in lexical.items():
            begun = time.perf_counter()
            results, _ = generation.search(index.query_terms(query.text), DEPTH)
            both = fused([results, near], generation.ranks)
            found[names[name]] = both, dense_seconds + time.perf_counter() - begun
        for name, (results, taken) in found.items():
            values[name][row] = measure_ranking(gains_of(query, results), query.grades, measures)
            seconds[name].append(taken)
    ids = tuple(query.id for query in queries)
    return {name: (RetrievalScores(ids, tuple(measures), values[name]), Latency.of(seconds[name])) for name in values}

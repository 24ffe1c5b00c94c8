"""Dense and hybrid baselines: ranking by the cosine of embeddings, and its fusion with BM25 by reciprocal ranks."""

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
from lavra.search.index.snapshot import Snapshot

RANK_CONSTANT = 60
"""The constant k of reciprocal rank fusion, 1 / (k + rank) (Cormack, Clarke and Büttcher, SIGIR 2009)."""

_AT_ONCE = 256
"""Number of documents that are embedded at once."""


@dataclass(frozen=True)
class Vectors:
    """The embeddings of the documents of an index, in the order of their numbers.

    Attributes:
        values: (documents, width) float32 vectors of length 1.
        model: The bi-encoder that made them.
    """

    values: NDArray[np.float32]
    model: Embedder

    @property
    def bytes(self) -> int:
        """Size of the vectors in bytes."""
        return self.values.nbytes


def embed_documents(index: Index, model: Embedder) -> Vectors:
    """Embed title and text of every document of an index; what the model cannot read of a long document is left out.

    Args:
        index: The index.
        model: The bi-encoder.
    """
    texts = (document.contents for document in index.documents())
    parts = [model.documents(some) for some in _batches(track(texts, "embedding", len(index), "documents"))]
    return Vectors(np.concatenate(parts), model)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while some := list(islice(texts, _AT_ONCE)):
        yield some


def dense_ranking(
    vectors: Vectors, query: NDArray[np.float32], ranks: NDArray[np.int32], depth: int = DEPTH
) -> NDArray[np.int64]:
    """Return the documents with the highest cosine to a query, by exact search.

    Args:
        vectors: The embeddings of the documents.
        query: (width,) embedding of the query, of length 1.
        ranks: (documents,) rank of each document in the order that breaks ties.
        depth: Most documents to return.

    Returns:
        The numbers of the documents, best first.
    """
    return best(vectors.values @ query + 2, ranks, depth)  # `best` leaves out scores of zero, and a cosine may be zero


def fused(rankings: Sequence[NDArray[np.int64]], ranks: NDArray[np.int32], depth: int = DEPTH) -> NDArray[np.int64]:
    """Fuse several rankings into one by reciprocal rank fusion: the sum of 1 / (60 + rank), with ranks from 1.

    Args:
        rankings: The numbers of the documents in each ranking, best first.
        ranks: (documents,) rank of each document in the order that breaks ties.
        depth: Most documents to return.

    Returns:
        The numbers of the documents, best first.
    """
    scores = np.zeros(len(ranks), dtype=np.float32)
    for ranking in rankings:
        scores[ranking] += (1.0 / (RANK_CONSTANT + 1 + np.arange(len(ranking)))).astype(np.float32)
    return best(scores, ranks, depth)


def evaluate_dense(
    index: Index,
    lexical: Mapping[str, Snapshot],
    vectors: Vectors,
    queries: Sequence[JudgedQuery],
    measures: Sequence[str] = MEASURES,
) -> dict[str, tuple[RetrievalScores, Latency]]:
    """Measure "dense" (exact search by cosine), and its fusion with each of several BM25 systems.

    Args:
        index: The index of the documents.
        lexical: What BM25 searches, by the name of the system; the fused system is called "NAME, fused with dense".
        vectors: The embeddings of the documents of the index.
        queries: The judged queries.
        measures: The names of the measures.

    Returns:
        Scores and latency of each system by its name; the latency of a query includes embedding it.
    """
    names = {name: f"{name}, fused with dense" for name in lexical}
    values = {name: np.zeros((len(queries), len(measures))) for name in ("dense", *names.values())}
    seconds: dict[str, list[float]] = {name: [] for name in values}
    for row, query in enumerate(track(queries, "searching by vectors", len(queries), "queries")):
        begun = time.perf_counter()
        near = dense_ranking(vectors, vectors.model.queries([query.text])[0], next(iter(lexical.values())).ranks)
        dense_seconds = time.perf_counter() - begun
        found = {"dense": (near, dense_seconds)}
        for name, snapshot in lexical.items():
            begun = time.perf_counter()
            results, _ = snapshot.search(index.query_terms(query.text), DEPTH)
            both = fused([results, near], snapshot.ranks)
            found[names[name]] = both, dense_seconds + time.perf_counter() - begun
        for name, (results, taken) in found.items():
            values[name][row] = measure_ranking(gains_of(query, results), query.grades, measures)
            seconds[name].append(taken)
    ids = tuple(query.id for query in queries)
    return {name: (RetrievalScores(ids, tuple(measures), values[name]), Latency.of(seconds[name])) for name in values}

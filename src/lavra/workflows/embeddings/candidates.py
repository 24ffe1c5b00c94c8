"""Texts that come close to a query, among which negatives are chosen: by BM25, and by the vectors of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.scratch import scratch_folder
from lavra.core.progress import track
from lavra.search.corpora.documents import Document
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.text.analyzers import Analyzer
from lavra.text.languages import guess_language
from lavra.vectors.protocols import TextEncoder

_AT_ONCE = 256
"""Queries that are compared with all texts at once."""

_SAMPLE = 200
"""Texts from which the language is guessed."""


@dataclass(frozen=True)
class Candidates:
    """The texts that come closest to each query by one measure, best first.

    Attributes:
        numbers: Numbers of the texts for each query, at most `depth` of them.
        scores: Their scores, in the same order.
        own: Score of the best right text of each query; minus infinity where it is not known.
    """

    numbers: list[NDArray[np.int64]]
    scores: list[NDArray[np.float64]]
    own: NDArray[np.float64]


def lexical_candidates(
    queries: Sequence[str],
    texts: Sequence[str],
    right: Sequence[frozenset[int]],
    depth: int,
    between: Callable[[], None] = lambda: None,
) -> Candidates:
    """Return the texts with the highest BM25 scores for each query.

    The score of a right text that is not among the first `depth` is not known.

    Args:
        queries: The queries.
        texts: The texts that are searched, all different.
        right: Numbers of the right texts of each query.
        depth: Most texts for a query.
        between: Is called before each query; it may raise an error to stop.
    """
    language: Any = guess_language(texts[:_SAMPLE]).language
    settings = IndexSettings(Analyzer(language if language in ("pt", "en") else "en"), fields="doc")
    numbers, scores, own = [], [], np.full(len(queries), -np.inf)
    with scratch_folder() as folder:
        index = Index.create(folder / "index", settings)
        with index.update() as update:
            for number, text in enumerate(track(texts, "counting words for BM25", len(texts), "texts")):
                update.put(Document(str(number), text))
        index = Index(folder / "index")
        for row, query in enumerate(track(queries, "searching by BM25", len(queries), "queries")):
            between()
            found, of_query = index.search(query, depth)
            places = np.array([int(name) for name in index.ids(found)], dtype=np.int64)
            numbers.append(places)
            scores.append(of_query.astype(np.float64))
            mine = np.isin(places, list(right[row]))
            own[row] = of_query[mine].max() if mine.any() else -np.inf
    return Candidates(numbers, scores, own)


def vector_candidates(
    queries: Sequence[str], texts: Sequence[str], right: Sequence[frozenset[int]], depth: int, encoder: TextEncoder
) -> tuple[Candidates, NDArray[np.float32], NDArray[np.float32]]:
    """Return the texts with the highest cosine for each query, and the vectors of the queries and of the texts.

    Args:
        queries: The queries.
        texts: The texts that are searched.
        right: Numbers of the right texts of each query.
        depth: Most texts for a query.
        encoder: What makes the vectors.
    """
    asked, searched = encoder.encode(queries, kind="query"), encoder.encode(texts, kind="passage")
    numbers, scores, own = [], [], np.empty(len(queries))
    depth = min(depth, len(texts))
    for first in range(0, len(queries), _AT_ONCE):
        for row, similarities in enumerate(asked[first : first + _AT_ONCE] @ searched.T, start=first):
            best = np.argpartition(-similarities, depth - 1)[:depth]
            best = best[np.lexsort((best, -similarities[best]))]
            numbers.append(best.astype(np.int64))
            scores.append(similarities[best].astype(np.float64))
            own[row] = max(similarities[number] for number in right[row])
    return Candidates(numbers, scores, own), asked, searched

"""Searching an index by words, by vectors or by both, with the first results ranked anew where that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.search.index.index import Index
from lavra.search.index.snapshot import Snapshot
from lavra.search.ranking import DEPTH, Ranking, by_reciprocal_ranks, by_weight
from lavra.search.reranking import Reranker, reranked
from lavra.vectors.protocols import TextEncoder

Mode = Literal["lexical", "dense", "hybrid"]
"""How an index is searched: by the words of the query (BM25), by its vector, or by both."""

RERANKED = 50
"""Number of results that a reranker reads."""


@dataclass(frozen=True)
class Answer:
    """What a search found, and by what.

    Attributes:
        ranking: The results.
        lexical: The ranking by words; None where it was not asked for.
        dense: The ranking by vectors; None where it was not asked for.
        vector: (dimensions,) the vector of the query; None where there is none.
        units: The nearest unit of each document that was found by vectors, counted from its first one.
        before: The results before they were ranked anew; None where they were not.
    """

    ranking: Ranking
    lexical: Ranking | None = None
    dense: Ranking | None = None
    vector: NDArray[np.float32] | None = None
    units: dict[int, int] | None = None
    before: Ranking | None = None


class Searcher:
    """Searches an index.

    Args:
        index: The index.
        mode: How it is searched; "dense" and "hybrid" need an index with vectors.
        encoder: The encoder of the vectors, for the query; None for a search by words.
        weight: Weight of the vectors in a hybrid search, from 0 to 1, by which scores are summed; None fuses by
            reciprocal ranks.
        reranker: Ranks the first results anew; None for no reranking.
        rerank_depth: Number of results that the reranker reads, at least 1.
        snapshot: What is searched by words; that of the index by default.

    Raises:
        InputError: If the index has no vectors where they are needed, or those of another model.
    """

    def __init__(
        self,
        index: Index,
        mode: Mode = "lexical",
        encoder: TextEncoder | None = None,
        *,
        weight: float | None = None,
        reranker: Reranker | None = None,
        rerank_depth: int = RERANKED,
        snapshot: Snapshot | None = None,
    ) -> None:
        if weight is not None and not 0 <= weight <= 1:
            raise InputError(f"a weight of {weight:g} for the vectors is not possible", "give a number from 0 to 1")
        if rerank_depth < 1:
            raise InputError(f"{rerank_depth} results cannot be ranked anew", "give one or more")
        if mode != "lexical":
            if index.vectors is None or encoder is None:
                raise InputError(
                    f"{index.folder} has no vectors, and --mode {mode} searches by them",
                    f"make them: lavra index … --dense MODEL --out {index.folder}",
                )
            index.vectors.settings.check_model(encoder.fingerprint, "the one that was opened", index.folder)
        self.index, self.mode = index, mode
        self.weight, self.reranker = weight, reranker
        self._encoder, self.rerank_depth = encoder, rerank_depth
        self._snapshot = snapshot or index.snapshot

    @property
    def fusion(self) -> str:
        """How the two rankings of a hybrid search are fused, in words; empty for others."""
        if self.mode != "hybrid":
            return ""
        return "reciprocal ranks" if self.weight is None else f"weight {self.weight:g} of the vectors"

    def answer(self, query: str, top_k: int, *, vector: NDArray[np.float32] | None = None) -> Answer:
        """Return the best documents for a query.

        Args:
            query: The query as a person writes it.
            top_k: Most documents to return, at least 1.
            vector: (dimensions,) the vector of the query, where it is known already.

        Raises:
            InputError: If the index has no committed document.
        """
        if self._snapshot is None:
            raise InputError(f"{self.index.folder} holds no searchable documents yet", "run `lavra index` to its end")
        found = self._first_stage(query, max(top_k, self.rerank_depth) if self.reranker else top_k, vector)
        if self.reranker is None or not len(found.ranking):
            return found
        passages = [
            self.passage(number, query, found) for number in found.ranking.numbers[: self.rerank_depth].tolist()
        ]
        new = reranked(found.ranking, self.reranker.score(query, passages)).first(top_k)
        return Answer(new, found.lexical, found.dense, found.vector, found.units, found.ranking)

    def _first_stage(self, query: str, top_k: int, vector: NDArray[np.float32] | None) -> Answer:
        assert self._snapshot is not None
        depth = DEPTH if self.mode == "hybrid" else top_k
        lexical = None
        if self.mode != "dense":
            lexical = Ranking(*self._snapshot.search(self.index.query_terms(query), depth))
            if self.mode == "lexical":
                return Answer(lexical, lexical)
        assert self._encoder is not None
        assert self.index.vectors is not None
        asked = self._encoder.encode([query], kind="query")[0] if vector is None else vector
        near = self.index.vectors.search(asked, depth)
        dense = Ranking(near.numbers, near.similarities)
        units = dict(zip(near.numbers.tolist(), near.units.tolist(), strict=True))
        if lexical is None:
            return Answer(dense, None, dense, asked, units)
        return Answer(self._fused(lexical, dense, top_k), lexical, dense, asked, units)

    def _fused(self, lexical: Ranking, dense: Ranking, top_k: int) -> Ranking:
        assert self._snapshot is not None
        if self.weight is None:
            return by_reciprocal_ranks([lexical, dense], self._snapshot.ranks, top_k)
        return by_weight(lexical, dense, self.weight, self._snapshot.ranks, top_k)

    def passage(self, number: int, query: str, answer: Answer) -> str:
        """Return the text of a document that a reranker reads: its contents, or its best chunk.

        Args:
            number: The number of the document.
            query: The query.
            answer: What the search found.
        """
        document, chunks = self.index.document(number)
        near = None if answer.units is None else answer.units.get(number)
        start, end = best_chunk(document.contents, chunks, near, self._shared(query))
        return document.contents[start:end]

    def _shared(self, query: str) -> Callable[[str], float]:
        terms = self.index.settings.analyzer.terms
        wanted = set(terms(query))
        return lambda text: float(len(wanted.intersection(terms(text))))


def best_chunk(
    contents: str, chunks: list[tuple[int, int]], near: int | None, weight: Callable[[str], float]
) -> tuple[int, int]:
    """Return the (start, end) place of the chunk of a document that matches best.

    Args:
        contents: The text of the document.
        chunks: The places of its chunks.
        near: The chunk whose vector is nearest to the query; None where none was compared.
        weight: How well a text matches the words of the query; the first of the best is taken without a vector.
    """
    if len(chunks) == 1:
        return chunks[0]
    if near is not None:
        return chunks[near]
    return max(chunks, key=lambda chunk: weight(contents[chunk[0] : chunk[1]]))

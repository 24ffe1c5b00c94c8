"""Search results for people: passages with the matching words marked, and the reason for each."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.search.index.index import Index
from lavra.search.ranking import DEPTH
from lavra.search.searcher import Answer, Searcher, best_chunk
from lavra.text.analyzers import Analyzer
from lavra.text.chunking import sentences

PASSAGE_LETTERS = 320
"""Length in characters of the passage that is shown; it may be a little longer, because it ends with a whole word."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        rank: The rank, from 1 on.
        id: The id of the document.
        score: The score by which the results are ordered: that of BM25, the similarity, the sum of a fusion, or what
            the reranker gave.
        title: The title of the document.
        passage: The part of the document that matches best.
        marks: The (start, end) places of the query's words in `passage`, in characters.
        expansion: A generated query with a word of the query that the document itself lacks; an empty string for none.
        expansion_marks: The (start, end) places of the query's words in `expansion`.
        place: Where the document was read.
        words: The words of the query that the document has, in its text or in its generated queries.
        lexical_rank: The rank among the results by words; None for a document that is not among them.
        lexical_score: The BM25 score; that of the best chunk where the index has chunks.
        dense_rank: The rank among the results by vectors; None for a document that is not among them.
        similarity: The similarity of the vectors of the query and of the nearest chunk; None in a search by words.
        rank_before: The rank before the reranker; None without one.
        rerank_score: What the reranker gave; None for a document that it did not read.
    """

    rank: int
    id: str
    score: float
    title: str
    passage: str
    marks: tuple[tuple[int, int], ...]
    expansion: str
    expansion_marks: tuple[tuple[int, int], ...]
    place: str
    words: tuple[str, ...] = ()
    lexical_rank: int | None = None
    lexical_score: float | None = None
    dense_rank: int | None = None
    similarity: float | None = None
    rank_before: int | None = None
    rerank_score: float | None = None

    def reason(self) -> str:
        """Return in words why the document was found: its rank and score by words, by vectors and by the reranker."""
        parts = []
        if self.lexical_rank is not None:
            parts.append(f"words: rank {self.lexical_rank}, score {self.lexical_score:.2f} ({', '.join(self.words)})")
        elif self.words:
            parts.append(f"words: {', '.join(self.words)}")
        if self.similarity is not None:
            rank = "" if self.dense_rank is None else f"rank {self.dense_rank}, "
            parts.append(f"vectors: {rank}similarity {self.similarity:.3f}")
        if self.rank_before is not None:
            score = "not read" if self.rerank_score is None else f"score {self.rerank_score:.3f}"
            parts.append(f"reranker: {score}, rank {self.rank_before} before")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes by name, as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def search(index: Index, query: str, top_k: int = 10, *, searcher: Searcher | None = None) -> list[Hit]:
    """Return the best documents for a query, with passages.

    Args:
        index: The index to search.
        query: The query as a person writes it.
        top_k: Most documents to return.
        searcher: Searches this index; None for a search by words.

    Returns:
        The results, best first; by words, none for a query without a word that is indexed.

    Raises:
        InputError: If `top_k` is below 1.
    """
    if top_k < 1:
        raise InputError(f"--top-k is {top_k}; it must be at least 1", "ask for one or more documents")
    by = searcher or Searcher(index)
    found = by.answer(query, top_k)
    weights = _weights(index, query)
    reasons = _reasons(index, found, by)
    return [
        _hit(index, query, number, rank, weights, reason)
        for rank, (number, reason) in enumerate(zip(found.ranking.numbers.tolist(), reasons, strict=True), start=1)
    ]


def _reasons(index: Index, found: Answer, searcher: Searcher) -> list[dict[str, Any]]:
    """Return for each result the fields of `Hit` that say by what it was found, and its nearest chunk as `unit`."""
    numbers = found.ranking.numbers
    reasons: list[dict[str, Any]] = [{"score": float(score)} for score in found.ranking.scores]
    for side, ranking in (("lexical", found.lexical), ("dense", found.dense)):
        places = ranking.places() if ranking is not None else {}
        for reason, number in zip(reasons, numbers.tolist(), strict=True):
            reason[f"{side}_rank"] = places.get(number)
            if side == "lexical" and ranking is not None and number in places:
                reason["lexical_score"] = float(ranking.scores[places[number] - 1])
    if found.vector is not None and index.vectors is not None and len(numbers):
        similarities, units = index.vectors.similarities(found.vector, numbers)
        for reason, similarity, unit in zip(reasons, similarities.tolist(), units.tolist(), strict=True):
            reason["similarity"] = similarity
            if reason["lexical_rank"] is None or (reason["dense_rank"] or DEPTH + 1) < reason["lexical_rank"]:
                reason["unit"] = unit  # the passage is the nearest chunk, and not that with the words of the query
    if found.before is not None:
        places = found.before.places()
        for reason, number in zip(reasons, numbers.tolist(), strict=True):
            reason["rank_before"] = places[number]
            reason["rerank_score"] = reason["score"] if places[number] <= searcher.rerank_depth else None
    return reasons


def why_nothing(index: Index, query: str) -> str:
    """Return a sentence that says why no document matches a query.

    Args:
        index: The index that was searched.
        query: The query.
    """
    analyzer = index.settings.analyzer
    words = analyzer.words(query)
    if not words:
        return "the query has no word"
    if not analyzer.terms(query):
        return f"the query has only words that the index leaves out: {', '.join(dict.fromkeys(words))}"
    asked = (word for word in dict.fromkeys(words) if analyzer.term(word))
    return f"no document has a word of the query: {', '.join(asked)}"


def marked(text: str, marks: tuple[tuple[int, int], ...], before: str = "**", after: str = "**") -> str:
    """Return a text with each marked part put between two strings.

    Args:
        text: The text.
        marks: The (start, end) places of the marked parts, in order.
        before: The string before each marked part.
        after: The string after each marked part.

    Examples:
        >>> marked("the river runs", ((4, 9),))
        'the **river** runs'
    """
    parts, last = [], 0
    for start, end in marks:
        parts += [text[last:start], before, text[start:end], after]
        last = end
    return "".join([*parts, text[last:]])


def _weights(index: Index, query: str) -> dict[str, float]:
    """Return the weight of each term of the query: its inverse document frequency, log(units / units with the term)."""
    assert index.snapshot is not None
    postings = index.snapshot.postings
    weights = dict.fromkeys(index.settings.analyzer.terms(query), 0.0)
    for term in weights:
        for number in index.numbers_of([term]):
            frequency = int(postings.starts[number + 1] - postings.starts[number])
            weights[term] = 0.01 + float(np.log((1 + len(postings)) / (1 + frequency)))
    return weights


def _hit(index: Index, query: str, number: int, rank: int, weights: Mapping[str, float], reason: dict[str, Any]) -> Hit:
    assert index.snapshot is not None
    analyzer = index.settings.analyzer
    document, chunks = index.document(number)
    contents = document.contents
    start, end = best_chunk(contents, chunks, reason.pop("unit", None), lambda text: _weight(analyzer, text, weights))
    passage = _passage(analyzer, unicodedata.normalize("NFC", contents[start:end]), weights)
    held = set(analyzer.terms(contents))
    missing = {term: weight for term, weight in weights.items() if term not in held}
    expansion = ""
    if missing:
        queries = index.indexed_queries(number)
        held.update(*map(analyzer.terms, queries))
        expansion = max(queries, key=lambda text: _weight(analyzer, text, missing), default="")
        expansion = expansion if _weight(analyzer, expansion, missing) > 0 else ""
    return Hit(
        rank=rank,
        id=document.id,
        title=document.title,
        passage=passage,
        marks=_marks(analyzer, passage, weights),
        expansion=expansion,
        expansion_marks=_marks(analyzer, expansion, weights),
        place=document.place,
        words=tuple(
            word for word in dict.fromkeys(analyzer.words(query)) if analyzer.term(word) in held & set(weights)
        ),
        **reason,
    )


def _weight(analyzer: Analyzer, text: str, weights: Mapping[str, float]) -> float:
    return sum(weights.get(term, 0.0) for term in set(analyzer.terms(text)))


def _marks(analyzer: Analyzer, text: str, weights: Mapping[str, float]) -> tuple[tuple[int, int], ...]:
    return tuple((start, end) for start, end, term in analyzer.spans(text) if term in weights)


def _passage(analyzer: Analyzer, text: str, weights: Mapping[str, float]) -> str:
    """Return whole sentences, from the first of the best ones on, within `PASSAGE_LETTERS` characters."""
    pieces = list(sentences(text))
    if not pieces:
        return ""
    best = max(range(len(pieces)), key=lambda number: _weight(analyzer, _of(text, pieces[number]), weights))
    start, last = pieces[best].start, best
    while last + 1 < len(pieces) and pieces[last + 1].end - start <= PASSAGE_LETTERS:
        last += 1
    end = pieces[last].end
    if end - start > PASSAGE_LETTERS:
        start, end = _window(text, start, end, _marks(analyzer, text[start:end], weights))
    return text[start:end].strip()


def _window(text: str, start: int, end: int, marks: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Return the place of the part of a long sentence with the most marks, from the start to the end of a word."""
    starts = [start + mark for mark, _ in marks] or [start]
    inside = [bisect_left(starts, begin + PASSAGE_LETTERS) - number for number, begin in enumerate(starts)]
    first = max(start, starts[inside.index(max(inside))] - 40)
    space = text.rfind(" ", start, first + 1)
    first = space + 1 if space >= 0 else start
    last = text.find(" ", min(end, first + PASSAGE_LETTERS), end)
    return first, last if last >= 0 else end


def _of(text: str, piece: Any) -> str:
    return text[piece.start : piece.end]

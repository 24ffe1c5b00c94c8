"""Search results for people: passages with the matching words marked, and the generated query that made a match."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.search.index.index import Index
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
        score: The BM25 score of the document; that of its best chunk where the index has chunks.
        title: The title of the document.
        passage: The part of the document that matches best.
        marks: The (start, end) places of the query's words in `passage`, in characters.
        expansion: A generated query with a word of the query that the document itself lacks; an empty string for none.
        expansion_marks: The (start, end) places of the query's words in `expansion`.
        place: Where the document was read.
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

    def to_json(self) -> dict[str, Any]:
        """Return the attributes by name, as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def search(index: Index, query: str, top_k: int = 10) -> list[Hit]:
    """Return the best documents for a query, with passages.

    Args:
        index: The index to search.
        query: The query as a person writes it.
        top_k: Most documents to return.

    Returns:
        The results, best first; none for a query without a word that is indexed.

    Raises:
        InputError: If `top_k` is below 1.
    """
    if top_k < 1:
        raise InputError(f"--top-k is {top_k}; it must be at least 1", "ask for one or more documents")
    numbers, scores = index.search(query, top_k)
    weights = _weights(index, query)
    return [
        _hit(index, number, float(score), rank, weights)
        for rank, (number, score) in enumerate(zip(numbers.tolist(), scores, strict=True), start=1)
    ]


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


def _hit(index: Index, number: int, score: float, rank: int, weights: Mapping[str, float]) -> Hit:
    assert index.snapshot is not None
    analyzer = index.settings.analyzer
    document, chunks = index.document(number)
    contents = document.contents
    start, end = 0, len(contents)
    if len(chunks) > 1:
        start, end = max(chunks, key=lambda chunk: _weight(analyzer, contents[chunk[0] : chunk[1]], weights))
    passage = _passage(analyzer, unicodedata.normalize("NFC", contents[start:end]), weights)
    missing = {term: weight for term, weight in weights.items() if term not in set(analyzer.terms(contents))}
    expansion = ""
    if missing:
        queries = index.indexed_queries(number)
        expansion = max(queries, key=lambda text: _weight(analyzer, text, missing), default="")
        expansion = expansion if _weight(analyzer, expansion, missing) > 0 else ""
    return Hit(
        rank=rank,
        id=document.id,
        score=score,
        title=document.title,
        passage=passage,
        marks=_marks(analyzer, passage, weights),
        expansion=expansion,
        expansion_marks=_marks(analyzer, expansion, weights),
        place=document.place,
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

"""Choosing hard negatives: texts that come close to a query by BM25 or by a model, and do not answer it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.vectors.protocols import TextEncoder
from lavra.workflows.embeddings.candidates import Candidates, lexical_candidates, vector_candidates

NEAR_THE_ANSWER = "as near to the query as its right text, or nearly, so that they may answer it too"
"""Why a text that was found is no negative."""
RIGHT = "right texts of the query"
NOT_COMPARED = "found for a query whose right text was not, so that nothing says how near is too near"
ENOUGH = "beyond the number that is asked for"


@dataclass(frozen=True)
class Pair:
    """A query and a text that is right for it.

    Attributes:
        query: The query.
        passage: The text.
        fields: What else the row says.
    """

    query: str
    passage: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Chosen:
    """Negatives of pairs.

    Attributes:
        negatives: The negatives of each pair, in the order of the pairs.
        ranks: Rank of the best right text of each pair's query among all texts, from 1; infinity where it was not
            among those that were looked at.
        left_out: Number of texts that were found and are no negatives, by the reason.
    """

    negatives: list[list[str]] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def choose_negatives(
    pairs: Sequence[Pair],
    further: Sequence[str],
    encoder: TextEncoder | None,
    *,
    by: Sequence[str] = ("bm25", "model"),
    count: int = 4,
    depth: int = 50,
    margin: float | None = 0.05,
    between: Callable[[], None] = lambda: None,
) -> Chosen:
    """Choose hard negatives for pairs.

    The texts that come closest to each query are looked for among the right texts of all pairs, and further ones. Left
    out are the right texts of the query, and those that come as near to it as the best right text, or nearly: they may
    answer it too (false negatives). How near is measured by the encoder where there is one, else by BM25.

    Args:
        pairs: The pairs.
        further: Further texts that are searched.
        encoder: What makes vectors; None searches by BM25 alone.
        by: What finds texts, "bm25" and "model"; without an encoder BM25 alone.
        count: Most negatives of a pair. With both ways they are taken from each in turn.
        depth: Number of texts that are looked at for each query and way.
        margin: Share by which the similarity of a negative has to be below that of the best right text. None keeps near
            ones too, for pairs whose margins a teacher will say.
        between: Is called now and then; it may raise an error to stop.
    """
    queries, texts, right = _sides(pairs, further)
    ways, nearness = _found(queries, texts, right, depth, by, encoder, between)
    chosen = Chosen()
    for pair in pairs:
        place = queries[pair.query]
        numbers = [way.numbers[place] for way in ways]
        found = _chosen(numbers, nearness[place], right[place], count, margin, chosen.left_out)
        chosen.negatives.append([texts[one] for one in found])
        chosen.ranks.append(nearness.rank(place, right[place]))
    return chosen


def _sides(pairs: Sequence[Pair], further: Sequence[str]) -> tuple[dict[str, int], list[str], list[frozenset[int]]]:
    """Return the number of each different query, the different texts, and the right texts of each query."""
    numbers: dict[str, int] = {}
    for text in [*(pair.passage for pair in pairs), *further]:
        numbers.setdefault(text, len(numbers))
    answers: dict[str, set[int]] = {}
    for pair in pairs:
        answers.setdefault(pair.query, set()).add(numbers[pair.passage])
        if pair.query in numbers:  # a text is no negative of itself
            answers[pair.query].add(numbers[pair.query])
    queries = {query: place for place, query in enumerate(answers)}
    return queries, list(numbers), [frozenset(answers[query]) for query in queries]


class _Nearness:
    """How near each text that was found is to its query, as a share of how near the best right text is."""

    def __init__(self, way: Candidates, vectors: tuple[NDArray[np.float32], NDArray[np.float32]] | None) -> None:
        self._way, self._vectors = way, vectors

    def __getitem__(self, place: int) -> _NearQuery:
        way, own = self._way, float(self._way.own[place])
        known = dict(zip(way.numbers[place].tolist(), way.scores[place].tolist(), strict=True))
        if self._vectors is None:
            return _NearQuery(own, known, None, None)
        return _NearQuery(own, known, self._vectors[0][place], self._vectors[1])

    def rank(self, place: int, right: frozenset[int]) -> float:
        """Return the rank of the best right text of a query, from 1; infinity where it is not known."""
        found = np.flatnonzero(np.isin(self._way.numbers[place], list(right)))
        return float(found[0] + 1) if len(found) else float("inf")


@dataclass(frozen=True)
class _NearQuery:
    """The same for one query: the score of its best right text, the known scores, and vectors for others."""

    own: float
    known: dict[int, float]
    query: NDArray[np.float32] | None
    texts: NDArray[np.float32] | None

    def of(self, text: int) -> float:
        if text not in self.known and self.query is not None and self.texts is not None:
            return float(self.query @ self.texts[text])
        return self.known.get(text, -np.inf)


def _found(
    queries: dict[str, int],
    texts: list[str],
    right: list[frozenset[int]],
    depth: int,
    by: Sequence[str],
    encoder: TextEncoder | None,
    between: Callable[[], None],
) -> tuple[list[Candidates], _Nearness]:
    """Return the candidates of each way, and what says how near they are."""
    asked, ways = list(queries), list[Candidates]()
    # Each query's own texts are among the first; so many more are looked at.
    deep = depth + max(map(len, right))
    if "bm25" in by or encoder is None:
        ways.append(lexical_candidates(asked, texts, right, deep, between))
    if encoder is None:
        return ways, _Nearness(ways[0], None)
    by_model, *vectors = vector_candidates(asked, texts, right, deep, encoder)
    return [*ways, by_model] if "model" in by else ways, _Nearness(by_model, (vectors[0], vectors[1]))


def _chosen(
    ways: Sequence[NDArray[np.int64]],
    near: _NearQuery,
    right: frozenset[int],
    count: int,
    margin: float | None,
    left_out: Counter[str],
) -> list[int]:
    """Return the negatives of a row, taken from each way in turn; what is left out is counted."""
    allowed: list[list[int]] = []
    judged: dict[int, str | None] = {}
    for numbers in ways:
        some = []
        for text in numbers.tolist():
            if text not in judged:
                judged[text] = _reason(text, near, right, margin)
            if judged[text] is None:
                some.append(text)
        allowed.append(some)
    left_out.update(reason for reason in judged.values() if reason is not None)
    chosen: dict[int, None] = {}
    for rank in range(max(map(len, allowed), default=0)):
        for some in allowed:
            if rank < len(some):
                chosen.setdefault(some[rank])
    if len(chosen) > count:
        left_out[ENOUGH] += len(chosen) - count
    return list(chosen)[:count]


def _reason(text: int, near: _NearQuery, right: frozenset[int], margin: float | None) -> str | None:
    """Return why a text is no negative of a query; None where it is one."""
    if text in right:
        return RIGHT
    if margin is None:
        return None
    if near.own == -np.inf:
        return NOT_COMPARED
    # The limit lies below the right text whatever its sign: a cosine may be negative.
    return NEAR_THE_ANSWER if near.of(text) > near.own - margin * abs(near.own) else None

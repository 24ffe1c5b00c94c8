"""Fusing the rankings of several searches into one: by reciprocal ranks, or by the weighted sum of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavra.text.term_counts import Whole

RANK_CONSTANT = 60
"""The constant k of reciprocal rank fusion, 1 / (k + rank) (Cormack, Clarke and Büttcher, SIGIR 2009)."""

DEPTH = 1000
"""Number of results of each search that are fused."""


@dataclass(frozen=True)
class Ranking:
    """The results of a search.

    Attributes:
        numbers: (found,) numbers of the documents, best first.
        scores: (found,) float32 score of each.
    """

    numbers: Whole
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.numbers)

    def places(self) -> dict[int, int]:
        """Return the rank of each document, from 1."""
        return {number: rank for rank, number in enumerate(self.numbers.tolist(), start=1)}

    def first(self, count: int) -> Ranking:
        """Return the best results."""
        return Ranking(self.numbers[:count], self.scores[:count])


def by_reciprocal_ranks(rankings: Sequence[Ranking], ranks: NDArray[np.int32], top_k: int = DEPTH) -> Ranking:
    """Fuse rankings by the sum of 1 / (60 + rank), with ranks from 1.

    Args:
        rankings: The rankings.
        ranks: (documents,) rank of each document in the order that breaks ties.
        top_k: Most documents to return.

    Examples:
        >>> first, second = (Ranking(np.array(some), np.ones(2, dtype=np.float32)) for some in ([2, 0], [0, 1]))
        >>> by_reciprocal_ranks([first, second], np.arange(3, dtype=np.int32)).numbers.tolist()
        [0, 2, 1]
    """
    parts = [1.0 / (RANK_CONSTANT + 1 + np.arange(len(one))) for one in rankings]
    return _summed(rankings, parts, ranks, top_k)


def by_weight(lexical: Ranking, dense: Ranking, weight: float, ranks: NDArray[np.int32], top_k: int = DEPTH) -> Ranking:
    """Fuse two rankings by the weighted sum of their scores, each scaled from 0 (its worst) to 1 (its best).

    Args:
        lexical: The ranking by words.
        dense: The ranking by vectors.
        weight: Weight of the ranking by vectors, from 0 to 1; the other one has the rest.
        ranks: (documents,) rank of each document in the order that breaks ties.
        top_k: Most documents to return.
    """
    rankings = [one for one, share in ((lexical, 1 - weight), (dense, weight)) if share > 0]
    parts = [share * _scaled(one) for one, share in ((lexical, 1 - weight), (dense, weight)) if share > 0]
    return _summed(rankings, parts, ranks, top_k)


def _scaled(ranking: Ranking) -> NDArray[np.float64]:
    values = ranking.scores.astype(np.float64)
    if not len(values):
        return values
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.ones(len(values))


def _summed(
    rankings: Sequence[Ranking], parts: Sequence[NDArray[np.float64]], ranks: NDArray[np.int32], top_k: int
) -> Ranking:
    every = np.concatenate([np.zeros(0, dtype=np.int64), *(one.numbers for one in rankings)])
    numbers, places = np.unique(every, return_inverse=True)
    sums = np.zeros(len(numbers))
    np.add.at(sums, places, np.concatenate([np.zeros(0), *parts]))
    scores = sums.astype(np.float32)  # ties are those of 32-bit numbers, as everywhere
    order = np.lexsort((ranks[numbers], -scores))[:top_k]
    return Ranking(numbers[order], scores[order])

"""How often one token follows two others in a corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavra.data.bigrams import MOST_TOKENS, count_in_a_row


@dataclass(frozen=True)
class Trigrams:
    """Counts of followers of the most frequent pairs of tokens, the most frequent pair first.

    Attributes:
        vocabulary: ids are below it.
        pairs: (contexts, 2) int64 ids: a token and the one after it.
        starts: (contexts + 1,) int64; the followers of pair c are `followers[starts[c]:starts[c + 1]]`.
        followers: (triples,) int64 ids.
        times: (triples,) float64 counts.
        covered: share of the corpus that follows one of these pairs.
    """

    vocabulary: int
    pairs: np.ndarray
    starts: np.ndarray
    followers: np.ndarray
    times: np.ndarray
    covered: float


def count_trigrams(
    tokens: np.ndarray, vocabulary: int, contexts: int, end_of_document: int, most: int = MOST_TOKENS
) -> Trigrams:
    """Count what follows the most frequent pairs of tokens.

    Args:
        tokens: (tokens,) ids of a corpus, flat.
        vocabulary: ids are below it.
        contexts: pairs to keep; those that occur once tell nothing and are never kept.
        end_of_document: a pair that ends with it is none: the next document does not see what came before.
        most: tokens to count at most.

    Raises:
        ValueError: for fewer than three tokens.
    """
    if len(tokens) < 3:
        raise ValueError("fewer than three tokens have no followers of pairs")
    keys, times = count_in_a_row(tokens, vocabulary, 3, most)
    pair, followers = np.divmod(keys, vocabulary)
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    known, total = pair[first], np.add.reduceat(times, first)
    wanted = np.flatnonzero((total > 1) & (known % vocabulary != end_of_document))
    chosen = wanted[np.argsort(-total[wanted], kind="stable")[:contexts]]
    lengths = np.diff(np.append(first, len(pair)))[chosen]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(first[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
    return Trigrams(
        vocabulary,
        np.stack(np.divmod(known[chosen], vocabulary), 1),
        starts,
        followers[places],
        times[places].astype(np.float64),
        float(total[chosen].sum() / total.sum()),
    )

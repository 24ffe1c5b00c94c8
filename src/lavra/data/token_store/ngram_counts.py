"""How often one token follows another, or two others, in a corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_TOKENS = 16_000_000
"""Tokens of a corpus that are counted, in stretches spread evenly over it: some seconds of work."""

_STRETCHES = 16


@dataclass(frozen=True)
class Bigrams:
    """Counts of followers, by context, the most frequent context first.

    Attributes:
        vocabulary: ids are below it.
        contexts: (contexts,) int64 ids that have followers.
        starts: (contexts + 1,) int64; the followers of context c are `followers[starts[c]:starts[c + 1]]`.
        followers: (pairs,) int64 ids.
        times: (pairs,) float32 counts.
    """

    vocabulary: int
    contexts: np.ndarray
    starts: np.ndarray
    followers: np.ndarray
    times: np.ndarray


def count_bigrams(tokens: np.ndarray, vocabulary: int, most: int = MOST_TOKENS) -> Bigrams:
    """Count which tokens follow which, across the ends of documents too, as a model's targets do.

    Args:
        tokens: (tokens,) ids of a corpus, flat.
        vocabulary: ids are below it.
        most: tokens to count at most.

    Raises:
        ValueError: for fewer than two tokens.
    """
    if len(tokens) < 2:
        raise ValueError("fewer than two tokens have no followers")
    keys, times = count_in_a_row(tokens, vocabulary, 2, most)
    before, followers = np.divmod(keys, vocabulary)
    contexts, index, lengths = np.unique(before, return_inverse=True, return_counts=True)
    order = np.argsort(-np.bincount(index, times), kind="stable")
    places = np.argsort(np.argsort(order)[index], kind="stable")
    return Bigrams(
        vocabulary,
        contexts[order],
        np.concatenate([[0], np.cumsum(lengths[order])]),
        followers[places],
        times[places].astype(np.float32),
    )


def as_read(ids: np.ndarray, end_of_document: int, document_bos: int) -> np.ndarray:
    """Return ids that come before others as a model reads them: a document's own beginning for the end of the last."""
    return np.where(ids == end_of_document, document_bos, ids)


def count_in_a_row(tokens: np.ndarray, vocabulary: int, length: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Count each `length` tokens in a row.

    Args:
        tokens: (tokens,) ids of a corpus, flat.
        vocabulary: ids are below it.
        length: of what is counted.
        most: tokens to count at most.

    Returns:
        (kinds,) int64 numbers in order, whose digits to the base of the vocabulary are the ids, and (kinds,) counts.
    """
    # In 4 bytes if that is enough: millions of them are sorted.
    dtype = np.dtype(np.uint32 if vocabulary**length <= 2**32 else np.int64)

    def keys(stretch: np.ndarray) -> np.ndarray:
        ids = np.asarray(stretch, dtype)
        found = np.zeros(len(ids) - length + 1, dtype)
        for place in range(length):
            found = found * dtype.type(vocabulary) + ids[place : place + len(found)]
        return found

    found, times = np.unique(np.concatenate([keys(part) for part in _stretches(tokens, most)]), return_counts=True)
    return found.astype(np.int64), times


def _stretches(tokens: np.ndarray, most: int) -> list[np.ndarray]:
    if len(tokens) <= most:
        return [tokens]
    length = max(2, most // _STRETCHES)
    starts = np.linspace(0, len(tokens) - length, _STRETCHES).astype(np.int64)
    return [tokens[start : start + length] for start in starts]


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

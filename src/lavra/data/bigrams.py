"""How often one token follows another in a corpus."""

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

    @property
    def occurrences(self) -> np.ndarray:
        """(contexts,) float64 tokens that follow each context."""
        return np.add.reduceat(self.times.astype(np.float64), self.starts[:-1])


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
    keys, times = np.unique(
        np.concatenate([_keys(stretch, vocabulary) for stretch in stretches_of(tokens, most)]), return_counts=True
    )
    before, followers = np.divmod(keys.astype(np.int64), vocabulary)
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


def stretches_of(tokens: np.ndarray, most: int) -> list[np.ndarray]:
    """Return (tokens,) views of a corpus, spread evenly, of about `most` tokens in all; the whole if it fits."""
    if len(tokens) <= most:
        return [tokens]
    length = max(2, most // _STRETCHES)
    starts = np.linspace(0, len(tokens) - length, _STRETCHES).astype(np.int64)
    return [tokens[start : start + length] for start in starts]


def _keys(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Return a number for each pair, in 4 bytes if that is enough: millions of them are sorted."""
    ids = np.asarray(tokens, np.uint32 if vocabulary <= 2**16 else np.int64)
    return ids[:-1] * ids.dtype.type(vocabulary) + ids[1:]

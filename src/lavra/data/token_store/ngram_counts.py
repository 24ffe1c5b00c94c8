"""Counts the bigrams and trigrams of a corpus: how often a token follows another one, or two others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_TOKENS = 16_000_000
"""Largest number of tokens of a corpus that are counted, which takes some seconds; of a larger corpus, stretches spread
evenly over it are counted."""

_STRETCHES = 16  # stretches of a corpus that is too large to be counted as a whole


@dataclass(frozen=True)
class Bigrams:
    """The bigram counts of a corpus, grouped by the first token, the most frequent first token first.

    Attributes:
        vocabulary: Size of the vocabulary; ids are below it.
        contexts: (contexts,) int64 ids of the first tokens.
        starts: (contexts + 1,) int64; the followers of context c are `followers[starts[c]:starts[c + 1]]`.
        followers: (pairs,) int64 ids of the second tokens.
        times: (pairs,) float32 counts of the bigrams.
    """

    vocabulary: int
    contexts: np.ndarray
    starts: np.ndarray
    followers: np.ndarray
    times: np.ndarray


def count_bigrams(tokens: np.ndarray, vocabulary: int, limit: int = MOST_TOKENS) -> Bigrams:
    """Return the bigram counts of a corpus; bigrams across the ends of documents count too, as a model predicts them.

    Args:
        tokens: (tokens,) ids of the corpus, flat.
        vocabulary: Size of the vocabulary.
        limit: Largest number of tokens to count; `MOST_TOKENS` by default.

    Raises:
        ValueError: for fewer than two tokens.

    Examples:
        >>> import numpy as np
        >>> from lavra.data.token_store.ngram_counts import count_bigrams
        >>> counts = count_bigrams(np.array([0, 1, 2, 1, 2, 1]), vocabulary=3)
        >>> counts.contexts.tolist(), counts.starts.tolist(), counts.followers.tolist(), counts.times.tolist()
        ([1, 2, 0], [0, 1, 2, 3], [2, 1, 1], [2.0, 2.0, 1.0])
    """
    if len(tokens) < 2:
        raise ValueError("fewer than two tokens have no followers")
    keys, times = count_in_a_row(tokens, vocabulary, 2, limit)
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
    """Return ids as a model reads them: with the beginning-of-document token in the place of the end before it.

    Args:
        ids: (n,) ids of tokens that come before others.
        end_of_document: Id of the token that ends a document.
        document_bos: Id that the model reads before the first token of a document.
    """
    return np.where(ids == end_of_document, document_bos, ids)


def count_in_a_row(tokens: np.ndarray, vocabulary: int, length: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the n-grams of one length in a corpus.

    Args:
        tokens: (tokens,) ids of a corpus, flat.
        vocabulary: Size of the vocabulary.
        length: Number of tokens of an n-gram.
        limit: Largest number of tokens to count.

    Returns:
        The (kinds,) int64 keys of the distinct n-grams in ascending order, and their (kinds,) counts. The digits of a
        key to the base of the vocabulary's size are the ids of the n-gram.
    """
    # In 4 bytes where that is enough, because millions of keys are sorted.
    dtype = np.dtype(np.uint32 if vocabulary**length <= 2**32 else np.int64)

    def keys(stretch: np.ndarray) -> np.ndarray:
        ids = np.asarray(stretch, dtype)
        found = np.zeros(len(ids) - length + 1, dtype)
        for place in range(length):
            found = found * dtype.type(vocabulary) + ids[place : place + len(found)]
        return found

    found, times = np.unique(np.concatenate([keys(part) for part in _stretches(tokens, limit)]), return_counts=True)
    return found.astype(np.int64), times


def _stretches(tokens: np.ndarray, limit: int) -> list[np.ndarray]:
    if len(tokens) <= limit:
        return [tokens]
    length = max(2, limit // _STRETCHES)
    starts = np.linspace(0, len(tokens) - length, _STRETCHES).astype(np.int64)
    return [tokens[start : start + length] for start in starts]


@dataclass(frozen=True)
class Trigrams:
    """The counts of what follows the most frequent bigrams of a corpus, the most frequent bigram first.

    Attributes:
        vocabulary: Size of the vocabulary; ids are below it.
        pairs: (contexts, 2) int64 ids of the bigrams.
        starts: (contexts + 1,) int64; the followers of bigram c are `followers[starts[c]:starts[c + 1]]`.
        followers: (triples,) int64 ids of the third tokens.
        times: (triples,) float64 counts of the trigrams.
        covered: Share of the tokens of the corpus that follow one of these bigrams.
    """

    vocabulary: int
    pairs: np.ndarray
    starts: np.ndarray
    followers: np.ndarray
    times: np.ndarray
    covered: float


def count_trigrams(
    tokens: np.ndarray, vocabulary: int, contexts: int, end_of_document: int, limit: int = MOST_TOKENS
) -> Trigrams:
    """Return the counts of the trigrams that begin with one of the most frequent bigrams.

    Args:
        tokens: (tokens,) ids of a corpus, flat.
        vocabulary: Size of the vocabulary.
        contexts: Largest number of bigrams; those that occur once tell nothing and are left out.
        end_of_document: Id of the token that ends a document. Bigrams that end with it are left out, because the next
            document does not see what came before.
        limit: Largest number of tokens to count; `MOST_TOKENS` by default.

    Raises:
        ValueError: for fewer than three tokens.
    """
    if len(tokens) < 3:
        raise ValueError("fewer than three tokens have no followers of pairs")
    keys, times = count_in_a_row(tokens, vocabulary, 3, limit)
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

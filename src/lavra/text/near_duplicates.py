"""Finds documents that are nearly the same: MinHash over word 5-grams proposes pairs, and their exact Jaccard index
decides.

Broder 1997, "On the resemblance and containment of documents"; banding after Leskovec et al., "Mining of Massive
Datasets" §3.4. With 16 bands of 4 hashes, a pair of resemblance 0.8 is proposed with a probability of 0.9998 and one of
0.3 with 0.12; what is proposed is compared exactly, so that no wrong pair is returned.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

GRAM = 5  # words of a gram
THRESHOLD = 0.8  # Jaccard index from which two texts are near duplicates by default
_BANDS = 16  # bands of locality-sensitive hashing, and MinHash values in each
_BAND = 4
_MOST_IN_BUCKET = 200  # texts that are compared with each other; of more, only with the first
_WORD = re.compile(r"\w+")
_CHUNK = 1 << 20  # grams hashed at once, 8 MiB


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A pair of documents that are nearly the same.

    Attributes:
        first: Index of the first document.
        second: Index of the second document.
        jaccard: Number of distinct word 5-grams that both have over the number that either has, 0 to 1.
    """

    first: int
    second: int
    jaccard: float


class WordGrams:
    """Turns texts into sets of word 5-grams, as hashes that can be compared between all texts of one object.

    Case and punctuation do not count. A text of fewer than five words is one gram of all its words.

    Examples:
        >>> from lavra.text.near_duplicates import WordGrams, jaccard
        >>> grams = WordGrams()
        >>> jaccard(grams("one two three four five six"), grams("One two three four five, seven"))
        0.3333333333333333
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> np.ndarray:
        """Return the distinct grams of a text as a sorted (grams,) uint64 array of hashes."""
        numbers = self._numbers
        words = [numbers.setdefault(word, len(numbers) + 1) for word in _WORD.findall(text.lower())]
        ids = np.array(words, np.uint64)
        count = max(1, len(ids) - GRAM + 1) if len(ids) else 0
        grams = np.zeros(count, np.uint64)
        for place in range(min(GRAM, len(ids))):
            grams = _mixed(grams + ids[place : place + count] + np.uint64(place))
        return np.unique(grams)


def near_duplicates(
    texts: Iterable[str], threshold: float = THRESHOLD, *, others: Iterable[str] | None = None
) -> list[NearDuplicate]:
    """Return the pairs of texts whose word 5-grams have a Jaccard index of at least `threshold`.

    Memory is about 1 KB for each kilobyte of text. When more than 200 texts fall into one bucket, they are compared
    only with the first of them, so that a thousand copies make a star and not half a million pairs.

    Args:
        texts: The texts; a pair names them by their indices.
        threshold: Smallest Jaccard index of a pair, from 0.5 to 1 because MinHash misses pairs below; 0.8 by default.
        others: Other texts. With them, only pairs of a text (`first`) and one of these (`second`) are looked for.

    Returns:
        The pairs in the order of their indices.

    Raises:
        ValueError: if the threshold is out of range.

    Examples:
        >>> from lavra.text.near_duplicates import near_duplicates
        >>> text = "the quick brown fox jumps over the lazy dog and runs away into the dark forest"
        >>> near_duplicates([text, "something else that nobody wrote twice", text + "!"])
        [NearDuplicate(first=0, second=2, jaccard=1.0)]
    """
    if not 0.5 <= threshold <= 1.0:
        raise ValueError(f"the threshold is {threshold}; MinHash finds pairs from 0.5 to 1")
    grams_of = WordGrams()
    grams = [grams_of(text) for text in texts]
    left = len(grams) if others is not None else None
    grams += [] if others is None else [grams_of(text) for text in others]
    found = []
    for first, second in sorted(_candidates(_bands(grams), left)):
        resemblance = jaccard(grams[first], grams[second])
        if resemblance >= threshold:
            found.append(NearDuplicate(first, second - (left or 0), resemblance))
    return found


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Jaccard index of two sets, given as sorted arrays: the size of their intersection over their union's.

    It is 0 for two empty sets.
    """
    if len(first) and np.array_equal(first, second):
        return 1.0  # as most candidates of a corpus with many copies are, which is seen without sorting them
    common = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - common
    return common / union if union else 0.0


def _bands(grams: Sequence[np.ndarray]) -> np.ndarray:
    """Return (texts, bands) uint64 keys: texts with an equal key in a band are candidates; empty texts have key 0.

    A MinHash value is the smallest hash of a text's grams under one hash function; two texts share it with a
    probability equal to their Jaccard index. A key combines the values of one band (locality-sensitive hashing).
    """
    keys = np.zeros((len(grams), _BANDS), np.uint64)
    seeds = np.random.default_rng(0).integers(1, 1 << 63, (_BANDS, _BAND), dtype=np.uint64)
    for numbers in _chunks(grams):
        flat = np.concatenate([grams[number] for number in numbers])
        starts = np.cumsum([0, *(len(grams[number]) for number in numbers[:-1])])
        for band in range(_BANDS):
            key = np.zeros(len(numbers), np.uint64)
            for seed in seeds[band]:
                key = _mixed(key + np.minimum.reduceat(_mixed(flat ^ seed), starts))
            keys[numbers, band] = key
    return keys


def _chunks(grams: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Yield the indices of the texts that have grams, about a million grams at a time."""
    chunk: list[int] = []
    size = 0
    for number, one in enumerate(grams):
        if len(one):
            chunk.append(number)
            size += len(one)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _candidates(keys: np.ndarray, left: int | None) -> set[tuple[int, int]]:
    """Return the pairs of texts that share a key in some band.

    With `left`, only pairs of an index below it and one from it on.
    """
    pairs: set[tuple[int, int]] = set()
    for band in range(keys.shape[1]):
        buckets: defaultdict[int, list[int]] = defaultdict(list)
        values, counts = np.unique(keys[:, band], return_counts=True)
        shared = np.isin(keys[:, band], values[(counts > 1) & (values != 0)])
        for number in np.flatnonzero(shared).tolist():
            buckets[int(keys[number, band])].append(number)
        for bucket in buckets.values():
            pairs.update(_pairs(bucket, left))
    return pairs


def _pairs(bucket: list[int], left: int | None) -> Iterator[tuple[int, int]]:
    """Yield the pairs of one bucket; of a large bucket, the pairs of each text with the first one (a star)."""
    if left is None:
        some = combinations(bucket, 2) if len(bucket) <= _MOST_IN_BUCKET else ((bucket[0], one) for one in bucket[1:])
        yield from some
        return
    own, others = [one for one in bucket if one < left], [one for one in bucket if one >= left]
    if len(bucket) > _MOST_IN_BUCKET:
        own_first, others_first = own[:1], others[:1]
        yield from ((one, other) for one in own for other in others_first)
        yield from ((one, other) for one in own_first for other in others)
        return
    yield from ((one, other) for one in own for other in others)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return hashes of uint64 values by the finaliser of SplitMix64: every bit depends on every other."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

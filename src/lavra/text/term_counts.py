"""Term counts of many texts in flat arrays, built in memory, then mapped from disk; and the numbers of the terms."""

from __future__ import annotations

import mmap
import os
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.text.analyzers import Analyzer

Whole = NDArray[np.int64]
Small = NDArray[np.int32]

LEFT_OUT = -1
"""Stands for a word that is no term (a stop word)."""


@dataclass(frozen=True, slots=True)
class TermCounts:
    """How often each term occurs in each text. Text t has the terms `terms[starts[t]:starts[t + 1]]`.

    Attributes:
        starts: (texts + 1,) where each text begins.
        terms: (entries,) term numbers, each at most once in a text.
        counts: (entries,) how often the term occurs there.
    """

    starts: Whole
    terms: Small
    counts: Small

    def __len__(self) -> int:
        return len(self.starts) - 1

    def text(self, number: int) -> tuple[Small, Small]:
        """Return terms and counts of one text."""
        place = slice(self.starts[number], self.starts[number + 1])
        return self.terms[place], self.counts[place]

    def entries(self, texts: Whole) -> tuple[Whole, Small, Small]:
        """Return (entries of each of these texts, their terms, their counts), flat and in the order of `texts`."""
        first, last = self.starts[texts], self.starts[texts + 1]
        places = ranges(first, last)
        return last - first, self.terms[places], self.counts[places]

    def save(self, folder: Path, name: str) -> None:
        """Write three files `NAME.starts.npy`, `NAME.terms.npy` and `NAME.counts.npy`."""
        for part in ("starts", "terms", "counts"):
            np.save(folder / f"{name}.{part}.npy", getattr(self, part))

    def release(self) -> None:
        """See `release`."""
        release(self.starts, self.terms, self.counts)

    @classmethod
    def load(cls, folder: Path, name: str) -> TermCounts:
        """Map the files that `save` wrote."""
        return cls(*(mapped(folder / f"{name}.{part}.npy") for part in ("starts", "terms", "counts")))


class TermCountsBuilder:
    """Collects the term counts of text after text."""

    def __init__(self) -> None:
        self._starts, self._terms, self._counts = array("q", [0]), array("i"), array("i")

    def add(self, terms: Iterable[int]) -> None:
        """Add a text by its term numbers, with repeats; `LEFT_OUT` is not counted."""
        counted = Counter(terms)
        counted.pop(LEFT_OUT, None)
        self._terms.extend(counted.keys())
        self._counts.extend(counted.values())
        self._starts.append(len(self._terms))

    def add_counted(self, terms: Small, counts: Small) -> None:
        """Add a text that has been counted before."""
        self._terms.frombytes(np.ascontiguousarray(terms, dtype=np.intc).tobytes())
        self._counts.frombytes(np.ascontiguousarray(counts, dtype=np.intc).tobytes())
        self._starts.append(len(self._terms))

    def terms_of(self, text: int) -> array[int]:
        """Return the terms of a text that was added."""
        return self._terms[self._starts[text] : self._starts[text + 1]]

    @property
    def texts(self) -> int:
        """Number of texts so far."""
        return len(self._starts) - 1

    @property
    def entries(self) -> int:
        """Number of entries so far."""
        return len(self._terms)

    def finish(self) -> TermCounts:
        """Return what was collected."""
        return TermCounts(
            np.array(self._starts, dtype=np.int64),
            np.array(self._terms, dtype=np.int32),
            np.array(self._counts, dtype=np.int32),
        )


def ranges(first: Whole, last: Whole) -> Whole:
    """Return the numbers of several ranges one after the other: ([3, 9], [5, 10]) gives [3, 4, 9]."""
    lengths = last - first
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(first - (ends - lengths), lengths)


def mapped(path: Path) -> NDArray:
    """Map a `.npy` file for reading, as a plain array (slices of a memmap object are slow to make)."""
    return np.asarray(np.load(path, mmap_mode="r"))


def release(*arrays: NDArray[Any]) -> None:
    """Let the system have the memory that mapped arrays take; what is needed again is mapped again, nothing is lost."""
    for one in arrays:
        base: Any = one
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        if base is not None and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


def new_array(path: Path, dtype: Any, length: int) -> NDArray[Any]:
    """Return a new array on disk to be filled. Its place is taken now: a full disk is an error, not a crash later.

    An array without entries is not mapped, which no system can do.
    """
    if not length:
        np.save(path, np.zeros(0, dtype=dtype))
        return np.zeros(0, dtype=dtype)
    array = np.lib.format.open_memmap(path, "w+", dtype, (length,))
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return array


_MOST_WORDS_KNOWN = 2_000_000


class Vocabulary:
    """Numbers for terms, in the order in which they were first seen.

    Attributes:
        numbers: term -> number.
    """

    def __init__(self, terms: list[str]) -> None:
        self.numbers = {term: number for number, term in enumerate(terms)}

    def __len__(self) -> int:
        return len(self.numbers)

    def since(self, number: int) -> list[str]:
        """Return the terms from this number on."""
        terms = list(self.numbers)
        return terms[number:]


class TextCounter:
    """Turns texts into term numbers, giving new terms a number.

    Args:
        analyzer: from words to terms.
        vocabulary: is extended.
    """

    def __init__(self, analyzer: Analyzer, vocabulary: Vocabulary) -> None:
        self._known = _WordNumbers(analyzer, vocabulary.numbers)

    def numbers(self, words: list[str]) -> list[int]:
        """Return the term number of each normalised word; `LEFT_OUT` for a stop word."""
        if len(self._known) > _MOST_WORDS_KNOWN:  # memory stays flat on a corpus with endlessly many words
            self._known.clear()
        return list(map(self._known.__getitem__, words))


class _WordNumbers(dict[str, int]):
    """Word -> term number; a new word is analyzed once, and a new term gets the next number."""

    def __init__(self, analyzer: Analyzer, numbers: dict[str, int]) -> None:
        self._analyzer, self._numbers = analyzer, numbers

    def __missing__(self, word: str) -> int:
        term = self._analyzer.term(word)
        number = self._numbers.setdefault(term, len(self._numbers)) if term else LEFT_OUT
        self[word] = number
        return number

"""Counts the terms of many texts into flat arrays, built in memory, then mapped from disk; and numbers the terms."""

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
"""The term number of a word that has no term, such as a stop word."""


@dataclass(frozen=True, slots=True)
class TermCounts:
    """The counts of each term in each text, as a sparse matrix in the CSR layout.

    Text t has the terms `terms[starts[t]:starts[t + 1]]`. An entry is a term in a text.

    Attributes:
        starts: (texts + 1,) int64 index of each text's first entry, and the number of entries.
        terms: (entries,) int32 term numbers, each at most once in a text.
        counts: (entries,) int32 counts of the term in the text.

    Examples:
        >>> from lavra.text.term_counts import TermCountsBuilder
        >>> builder = TermCountsBuilder()
        >>> builder.add([4, 7, 4])
        >>> builder.add([7])
        >>> counts = builder.finish()
        >>> terms, times = counts.text(0)
        >>> terms.tolist(), times.tolist()
        ([4, 7], [2, 1])
    """

    starts: Whole
    terms: Small
    counts: Small

    def __len__(self) -> int:
        return len(self.starts) - 1

    def text(self, number: int) -> tuple[Small, Small]:
        """Return the terms of one text, and their counts."""
        place = slice(self.starts[number], self.starts[number + 1])
        return self.terms[place], self.counts[place]

    def entries(self, texts: Whole) -> tuple[Whole, Small, Small]:
        """Return the entries of several texts, flat and in the order of `texts`.

        Args:
            texts: (n,) int64 numbers of the texts.

        Returns:
            The (n,) number of entries of each text, and the (entries,) terms and counts.
        """
        first, last = self.starts[texts], self.starts[texts + 1]
        places = ranges(first, last)
        return last - first, self.terms[places], self.counts[places]

    def save(self, folder: Path, name: str) -> None:
        """Write the arrays to `NAME.starts.npy`, `NAME.terms.npy` and `NAME.counts.npy` in a folder."""
        for part in ("starts", "terms", "counts"):
            np.save(folder / f"{name}.{part}.npy", getattr(self, part))

    def release(self) -> None:
        """Give back the memory of the mapped arrays, by the function `release`."""
        release(self.starts, self.terms, self.counts)

    @classmethod
    def load(cls, folder: Path, name: str) -> TermCounts:
        """Return the counts in the files that `save` wrote, mapped from disk."""
        return cls(*(mapped(folder / f"{name}.{part}.npy") for part in ("starts", "terms", "counts")))


class TermCountsBuilder:
    """Collects the term counts of text after text."""

    def __init__(self) -> None:
        self._starts, self._terms, self._counts = array("q", [0]), array("i"), array("i")

    def add(self, terms: Iterable[int]) -> None:
        """Add a text, given as its term numbers with repetitions; `LEFT_OUT` is not counted."""
        counted = Counter(terms)
        counted.pop(LEFT_OUT, None)
        self._terms.extend(counted.keys())
        self._counts.extend(counted.values())
        self._starts.append(len(self._terms))

    def add_counted(self, terms: Small, counts: Small) -> None:
        """Add a text, given as (terms,) distinct term numbers and the (terms,) count of each."""
        self._terms.frombytes(np.ascontiguousarray(terms, dtype=np.intc).tobytes())
        self._counts.frombytes(np.ascontiguousarray(counts, dtype=np.intc).tobytes())
        self._starts.append(len(self._terms))

    def terms_of(self, text: int) -> array[int]:
        """Return the distinct term numbers of a text that was added before, given by its number."""
        return self._terms[self._starts[text] : self._starts[text + 1]]

    @property
    def texts(self) -> int:
        """Number of texts added so far."""
        return len(self._starts) - 1

    @property
    def entries(self) -> int:
        """Number of entries added so far."""
        return len(self._terms)

    def finish(self) -> TermCounts:
        """Return the counts of all texts that were added."""
        return TermCounts(
            np.array(self._starts, dtype=np.int64),
            np.array(self._terms, dtype=np.int32),
            np.array(self._counts, dtype=np.int32),
        )


def ranges(first: Whole, last: Whole) -> Whole:
    """Return the numbers of several ranges one after the other.

    Args:
        first: (ranges,) int64 first number of each range.
        last: (ranges,) int64 number after the last of each range.

    Examples:
        >>> import numpy as np
        >>> from lavra.text.term_counts import ranges
        >>> ranges(np.array([3, 9]), np.array([5, 10])).tolist()
        [3, 4, 9]
    """
    lengths = last - first
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(first - (ends - lengths), lengths)


def mapped(path: Path) -> NDArray:
    """Return the array in a `.npy` file, mapped for reading, as a plain array: slices of a memmap object are slow."""
    return np.asarray(np.load(path, mmap_mode="r"))


def release(*arrays: NDArray[Any]) -> None:
    """Give the memory of mapped arrays back to the system; their values are read from disk again when needed."""
    for one in arrays:
        base: Any = one
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        if base is not None and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


def new_array(path: Path, dtype: Any, shape: int | tuple[int, ...]) -> NDArray[Any]:
    """Return a new array on disk to be filled.

    Its space on disk is reserved now, so that a full disk is an error here and not a crash when the array is written.
    An array without entries is not mapped, because no system can do that.

    Args:
        path: The `.npy` file to make.
        dtype: Type of the numbers.
        shape: Number of entries, or of entries in each dimension.
    """
    if not np.prod(shape):
        np.save(path, np.zeros(shape, dtype=dtype))
        return np.zeros(shape, dtype=dtype)
    array = np.lib.format.open_memmap(path, "w+", dtype, (shape,) if isinstance(shape, int) else shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return array


_MOST_WORDS_KNOWN = 2_000_000  # words whose term number is remembered, so that memory stays bounded


class Vocabulary:
    """The numbers of the terms, in the order in which they were first seen.

    Args:
        terms: Terms that are known already; they get the numbers from 0.

    Attributes:
        numbers: Dictionary from terms to their numbers.
    """

    def __init__(self, terms: list[str]) -> None:
        self.numbers = {term: number for number, term in enumerate(terms)}

    def __len__(self) -> int:
        return len(self.numbers)

    def since(self, number: int) -> list[str]:
        """Return the terms whose numbers are at least `number`, in order."""
        terms = list(self.numbers)
        return terms[number:]


class TextCounter:
    """Turns the words of texts into term numbers, and gives new terms a number.

    Args:
        analyzer: Turns words into terms.
        vocabulary: The numbers of the terms; new terms are added to it.

    Examples:
        >>> from lavra.text.analyzers import Analyzer
        >>> from lavra.text.term_counts import TextCounter, Vocabulary
        >>> analyzer, vocabulary = Analyzer("en"), Vocabulary([])
        >>> TextCounter(analyzer, vocabulary).numbers(analyzer.words("The cat and the other cats"))
        [-1, 0, -1, -1, 1, 0]
        >>> vocabulary.since(0)
        ['cat', 'other']
    """

    def __init__(self, analyzer: Analyzer, vocabulary: Vocabulary) -> None:
        self._known = _WordNumbers(analyzer, vocabulary.numbers)

    def numbers(self, words: list[str]) -> list[int]:
        """Return the term number of each word that `Analyzer.words` returned; `LEFT_OUT` for a word without a term."""
        if len(self._known) > _MOST_WORDS_KNOWN:  # memory stays flat on a corpus with endlessly many words
            self._known.clear()
        return list(map(self._known.__getitem__, words))


class _WordNumbers(dict[str, int]):
    """A dictionary from words to term numbers; a new word is analyzed once, and a new term gets the next number."""

    def __init__(self, analyzer: Analyzer, numbers: dict[str, int]) -> None:
        self._analyzer, self._numbers = analyzer, numbers

    def __missing__(self, word: str) -> int:
        term = self._analyzer.term(word)
        number = self._numbers.setdefault(term, len(self._numbers)) if term else LEFT_OUT
        self[word] = number
        return number

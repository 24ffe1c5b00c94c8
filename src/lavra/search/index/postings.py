"""BM25 postings on disk: for each term the units that have it, with their finished scores, read by memory map.

The arrays are those of `bm25s`, which scores them: column-compressed, one column per term, the score of a term in a
unit computed at indexing time. They are built here from counts on disk instead of by `bm25s.BM25.index`, which needs
the tokens of the whole corpus in memory; the scores are the same.

The formula is that of Lucene 8 and later (Kamphuis et al., ECIR 2020, "Lucene (accurate)"):
`log(1 + (N - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * length / average length))`, where N counts the
units that have any term.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.files import read_json
from lavra.search.index.fields import UnitCounts
from lavra.text.term_counts import Whole, mapped, new_array, release

_AT_ONCE = 2_000_000
"""Number of entries that are read at once."""


@dataclass(frozen=True, slots=True)
class _Collected:
    """The term counts of all units on disk, in the order of the units, and the statistics that BM25 needs."""

    folder: Path
    sizes: Whole
    lengths: NDArray[np.float32]
    frequencies: Whole

    @property
    def starts(self) -> Whole:
        """(terms + 1,) where the postings of each term begin."""
        return np.concatenate([[0], np.cumsum(self.frequencies)]).astype(np.int64)

    @property
    def average_length(self) -> float:
        """Mean length of the units that have any term, as Lucene counts it."""
        filled = self.lengths[self.lengths > 0]
        return float(filled.mean(dtype=np.float64)) if len(filled) else 1.0

    def blocks(self) -> Iterable[tuple[Whole, NDArray[np.int32], NDArray[np.float32]]]:
        """Yield (unit of each entry, terms, counts) for consecutive units, some millions of entries at a time."""
        ends = np.cumsum(self.sizes)
        total = int(ends[-1]) if len(ends) else 0
        if not total:
            return
        terms = np.memmap(self.folder / "terms.tmp", dtype=np.int32, mode="r")
        counts = np.memmap(self.folder / "counts.tmp", dtype=np.float32, mode="r")
        first = 0
        while first < len(ends):
            start = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + _AT_ONCE, side="right")))
            place = slice(start, int(ends[last - 1]))
            units = np.repeat(np.arange(first, last), self.sizes[first:last])
            yield units, np.asarray(terms[place]), np.asarray(counts[place])
            release(terms, counts)
            first = last


def build_postings(
    folder: Path, blocks: Iterable[UnitCounts], vocabulary: int, *, k1: float, b: float, keep_counts: bool = False
) -> None:
    """Write postings into an existing folder, in two passes over the counts; memory does not grow with the postings.

    The first pass writes the counts of all units into temporary files and counts how often each term occurs, from which
    the place of its postings follows. The second pass puts every posting into its place (a counting sort by term).

    Args:
        folder: The folder, which gets `scores.npy`, `units.npy`, `starts.npy`, `lengths.npy` and `postings.json`.
        blocks: The term counts of all units, in order.
        vocabulary: Number of terms.
        k1: BM25 term-frequency saturation.
        b: BM25 length normalisation, from 0 to 1.
        keep_counts: Whether `counts.npy` is written too, so that scores can be computed again for other k1 and b.
    """
    collected = _collect(folder, blocks, vocabulary)
    _write(collected, k1, b, keep_counts)
    (folder / "terms.tmp").unlink()
    (folder / "counts.tmp").unlink()


def _collect(folder: Path, blocks: Iterable[UnitCounts], vocabulary: int) -> _Collected:
    frequencies = np.zeros(vocabulary, dtype=np.int64)
    sizes, lengths = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
    with (folder / "terms.tmp").open("wb") as terms, (folder / "counts.tmp").open("wb") as counts:
        for block in blocks:
            terms.write(np.ascontiguousarray(block.terms, dtype=np.int32).tobytes())
            counts.write(np.ascontiguousarray(block.counts, dtype=np.float32).tobytes())
            frequencies += np.bincount(block.terms, minlength=vocabulary)
            sizes.append(block.units)
            owner = np.repeat(np.arange(len(block.units)), block.units)
            lengths.append(np.bincount(owner, block.counts, minlength=len(block.units)).astype(np.float32))
    return _Collected(folder, np.concatenate(sizes), np.concatenate(lengths), frequencies)


def _write(collected: _Collected, k1: float, b: float, keep_counts: bool) -> None:
    folder, starts = collected.folder, collected.starts
    total = int(starts[-1])
    formula = Bm25(k1, b, collected.lengths, collected.average_length, collected.frequencies)
    scores = new_array(folder / "scores.npy", np.float32, total)
    units = new_array(folder / "units.npy", np.int32, total)
    kept = new_array(folder / "counts.npy", np.float32, total) if keep_counts else None
    heads = starts[:-1].copy()
    for unit, term, count in collected.blocks():
        order = np.argsort(term, kind="stable")  # by term, and by unit within a term
        term, unit, count = term[order], unit[order], count[order]
        times = np.bincount(term, minlength=len(heads))
        within = np.arange(len(term)) - np.repeat(np.cumsum(times) - times, times)
        places = heads[term] + within
        scores[places] = formula.scores(term, unit, count)
        units[places] = unit
        if kept is not None:
            kept[places] = count
        heads += times
        release(scores, units, *([] if kept is None else [kept]))
    np.save(folder / "starts.npy", starts)
    np.save(folder / "lengths.npy", collected.lengths)
    numbers = {"k1": k1, "b": b, "average_length": collected.average_length, "units": len(collected.lengths)}
    (folder / "postings.json").write_text(json.dumps(numbers), encoding="utf8")


class Bm25:
    """The BM25 formula of Lucene (see the module) over arrays.

    Args:
        k1: BM25 term-frequency saturation.
        b: BM25 length normalisation, from 0 to 1.
        lengths: (units,) length of each unit in terms.
        average_length: Mean length of the units that have any term.
        frequencies: (terms,) document frequency: number of units that have each term.
    """

    def __init__(
        self, k1: float, b: float, lengths: NDArray[np.float32], average_length: float, frequencies: Whole
    ) -> None:
        filled = int((lengths > 0).sum())
        self.idf = np.log(1 + (filled - frequencies + 0.5) / (frequencies + 0.5))
        self.norm = k1 * (1 - b + b * lengths.astype(np.float64) / average_length)

    def scores(self, term: NDArray[Any], unit: NDArray[Any], count: NDArray[Any]) -> NDArray[np.float32]:
        """Return the float32 score of each posting.

        Args:
            term: (postings,) term numbers.
            unit: (postings,) unit numbers.
            count: (postings,) occurrences of the term in the unit.
        """
        return (self.idf[term] * (count / (count + self.norm[unit]))).astype(np.float32)


class Postings:
    """Postings that are read from disk by memory map.

    Args:
        folder: The folder in which `build_postings` wrote them.
        rescored: (postings,) scores to use instead of those on disk; None for those on disk. See `with_parameters`.

    Attributes:
        starts: (terms + 1,) where the postings of each term begin.
    """

    def __init__(self, folder: Path, rescored: NDArray[np.float32] | None = None) -> None:
        self.folder = folder
        self.numbers = read_json(folder / "postings.json")
        self._scores = mapped(folder / "scores.npy") if rescored is None else rescored
        self._units = mapped(folder / "units.npy")
        self.starts: Whole = mapped(folder / "starts.npy")

    def __len__(self) -> int:
        return self.numbers["units"]

    def scores(self, terms: list[int]) -> NDArray[np.float32]:
        """Return the (units,) scores of all units for a query.

        Args:
            terms: The term numbers of the query, with repetitions.
        """
        return self._engine.get_scores_from_ids(terms)

    @property
    def bytes(self) -> int:
        """Size in bytes of the scores, units and starts on disk."""
        return self._scores.nbytes + self._units.nbytes + self.starts.nbytes

    def with_parameters(self, k1: float, b: float) -> Postings:
        """Return the same postings with scores for other parameters, which are held in memory.

        Args:
            k1: BM25 term-frequency saturation.
            b: BM25 length normalisation, from 0 to 1.

        Raises:
            FileNotFoundError: If the postings were built without `keep_counts`.
        """
        frequencies = np.diff(self.starts)
        formula = Bm25(k1, b, mapped(self.folder / "lengths.npy"), self.numbers["average_length"], frequencies)
        term = np.repeat(np.arange(len(frequencies), dtype=np.int32), frequencies)
        scores = formula.scores(term, self._units, mapped(self.folder / "counts.npy"))
        return Postings(self.folder, scores)

    @cached_property
    def _engine(self) -> Any:
        import bm25s

        engine = bm25s.BM25(k1=self.numbers["k1"], b=self.numbers["b"], method="lucene")
        engine.scores = {
            "data": self._scores,
            "indices": self._units,
            "indptr": self.starts,
            "num_docs": len(self),
        }
        engine.nonoccurrence_array = None  # only the variants BM25L and BM25+ have one
        return engine


def best(
    scores: NDArray[np.float32], ranks: NDArray[np.int32], top_k: int, *, zero_matches: bool = False
) -> NDArray[np.int64]:
    """Return the best documents in the order of trec_eval: by score, ties by the given order.

    Args:
        scores: (documents,) score of each document.
        ranks: (documents,) rank of each document in the order that breaks ties.
        top_k: Most documents to return, at least 1; it may be more than there are documents.
        zero_matches: Whether a document with a score of zero matches, as one with a similarity of zero does.

    Returns:
        (found,) numbers of the documents, best first.

    Examples:
        >>> best(np.array([0.0, 2.0, 1.0], dtype=np.float32), np.arange(3, dtype=np.int32), 5).tolist()
        [1, 2]
    """
    found = np.arange(len(scores)) if zero_matches else np.flatnonzero(scores)
    if top_k < len(found):
        values = scores[found]  # the many zeros are left out first: they make selection several times slower
        threshold = np.partition(values, len(values) - top_k)[len(values) - top_k]
        found = found[values >= threshold]
    return found[np.lexsort((ranks[found], -scores[found]))[:top_k]]

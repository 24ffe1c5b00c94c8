"""A generation: everything that searching reads, made at once from the living rows of the segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.files import read_json, write_json
from lavra.search.index.fields import TermShares, UnitCounts, choose_queries, unit_counts
from lavra.search.index.manifest import IndexSettings
from lavra.search.index.postings import Postings, best, build_postings
from lavra.search.index.segments import Segment, key_of
from lavra.text.term_counts import Whole, mapped, new_array, ranges

# Sorting many ids by their bytes without an object for each.

_BLOCK = 8
"""Bytes that are compared at once, as one number."""


def ascending(texts: NDArray[np.uint8], starts: Whole) -> Whole:
    """Return the numbers of texts in the order of their bytes, a beginning of another text before it.

    A radix sort from the last block of bytes to the first; a text takes part from its own last block on. It takes some
    tens of bytes of memory for each text, and time in proportion to the length of all.

    Args:
        texts: the bytes of all texts, one after the other.
        starts: (texts + 1,) where each begins.
    """
    lengths = np.diff(starts)
    by_length = np.argsort(lengths, kind="stable")
    ordered = lengths[by_length]
    order = by_length[:0]
    last = len(by_length)
    for begin in range((int(ordered[-1]) - 1) // _BLOCK * _BLOCK if len(ordered) else -1, -1, -_BLOCK):
        first = int(ordered.searchsorted(begin, side="right"))
        order = np.concatenate([by_length[first:last], order])
        order = order[np.argsort(_block(texts, starts, order, begin), kind="stable")]
        last = first
    return np.concatenate([by_length[:last], order])


def _block(texts: NDArray[np.uint8], starts: Whole, chosen: Whole, begin: int) -> NDArray[np.uint64]:
    """Return eight bytes of each chosen text from `begin` on as a number, zeros where it has ended."""
    places = starts[chosen] + begin
    ends = starts[chosen + 1]
    found = np.zeros(len(chosen), dtype=np.uint64)
    for _ in range(_BLOCK):
        inside = places < ends
        found <<= np.uint64(8)
        found[inside] |= texts[places[inside]]
        places += 1
    return found


# A generation: everything that searching reads, made at once from the living rows of the segments.


class Generation:
    """What is searched: postings over units, and which document each unit belongs to. Mapped from disk.

    Documents have numbers from 0 on, in the order in which they were written.

    Args:
        folder: where `build_generation` wrote it.
        postings: to search instead of those in the folder.
    """

    def __init__(self, folder: Path, postings: Postings | None = None) -> None:
        self.folder = folder
        self.postings = postings or Postings(folder)
        self.ranks: NDArray[np.int32] = mapped(folder / "ranks.npy")
        """(documents,) place of each document in the order that breaks ties."""
        starts = folder / "document_units.npy"
        self._units = mapped(starts) if starts.exists() else None
        self.rows: NDArray[np.int32] = mapped(folder / "rows.npy")
        """(documents, 2) segment and row of each document."""
        self._hashes: NDArray[np.uint64] = mapped(folder / "hashes.npy")
        self._ids: NDArray[np.uint8] = mapped(folder / "ids.npy")
        self._id_starts: Whole = mapped(folder / "id_starts.npy")
        self.shares = TermShares(**read_json(folder / "shares.json"))
        """How much of the indexed queries' terms is new to their documents."""

    def __len__(self) -> int:
        return len(self.ranks)

    def search(self, terms: list[int], most: int) -> tuple[Whole, NDArray[np.float32]]:
        """Return the numbers and the scores of the best documents, in trec_eval's order.

        A document scores as its best unit (MaxP). Documents without any term of the query are no answers.

        Args:
            terms: the query's term numbers, repeats included.
            most: how many documents at most.
        """
        if not terms or not len(self):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        scores = self.postings.scores(terms)
        if self._units is not None:
            scores = np.maximum.reduceat(scores, self._units[:-1])
        found = best(scores, self.ranks, most)
        return found, scores[found]

    def id_of(self, document: int) -> str:
        """Return the id of a document."""
        starts = self._id_starts
        return self._ids[starts[document] : starts[document + 1]].tobytes().decode("utf8", "surrogatepass")

    def number_of(self, identifier: str) -> int | None:
        """Return the number of the document with this id, or None."""
        wanted = key_of(identifier)[0]
        ordered, order = self._by_hash
        place = int(ordered.searchsorted(wanted))
        while place < len(ordered) and ordered[place] == wanted:
            if self.id_of(int(order[place])) == identifier:
                return int(order[place])
            place += 1
        return None

    def kept_queries(self, segment: int) -> NDArray[np.bool_] | None:
        """Return which generated queries of a segment are indexed, (queries,); None when all are."""
        path = self.folder / f"kept-{segment}.npy"
        return mapped(path) if path.exists() else None

    @cached_property
    def _by_hash(self) -> tuple[NDArray[np.uint64], Whole]:
        order = np.argsort(self._hashes, kind="stable")
        return self._hashes[order], order


def build_generation(
    folder: Path,
    segments: Sequence[Segment],
    rows: Sequence[Whole],
    settings: IndexSettings,
    vocabulary: int,
    *,
    keep_counts: bool = False,
) -> None:
    """Write a generation into an empty folder.

    Args:
        folder: where to.
        segments: of the index.
        rows: living rows of each segment.
        settings: of the index.
        vocabulary: number of terms.
        keep_counts: so that `Postings.with_parameters` can be used.
    """
    shares = TermShares()
    kept = _keep_queries(segments, rows, settings)
    blocks = _blocks(segments, rows, settings, kept, shares)
    for number, mask in enumerate(kept or ()):
        np.save(folder / f"kept-{number}.npy", mask)
    build_postings(folder, blocks, vocabulary, k1=settings.k1, b=settings.b, keep_counts=keep_counts)
    write_json(folder / "shares.json", {"copied": shares.copied, "new": shares.new, "queries": shares.queries})
    places = [np.stack([np.full(len(some), number), some], axis=1).astype(np.int32) for number, some in enumerate(rows)]
    np.save(folder / "rows.npy", np.concatenate([*places, np.zeros((0, 2), dtype=np.int32)]))
    _write_ids(folder, segments, rows)
    units = [one.units[some + 1] - one.units[some] for one, some in zip(segments, rows, strict=True)]
    lengths = np.concatenate([np.zeros(1, dtype=np.int64), *units])
    if settings.chunk_words:
        np.save(folder / "document_units.npy", np.cumsum(lengths))


def _blocks(
    segments: Sequence[Segment],
    rows: Sequence[Whole],
    settings: IndexSettings,
    kept: list[NDArray[np.bool_]] | None,
    shares: TermShares,
) -> Iterator[UnitCounts]:
    for number, (segment, some) in enumerate(zip(segments, rows, strict=True)):
        expanded = len(segment.query_counts) > 0
        yield unit_counts(
            segment,
            some,
            settings.fields if expanded or settings.fields == "queries" else "doc",
            query_weight=settings.query_weight,
            kept=kept[number] if kept is not None else None,
            shares=shares if expanded else None,
        )
        segment.release()


def _keep_queries(
    segments: Sequence[Segment], rows: Sequence[Whole], settings: IndexSettings
) -> list[NDArray[np.bool_]] | None:
    """Choose among the generated queries of all living documents together, as one share of the whole collection.

    Returns:
        For each segment (queries,) whether a query is indexed; None when all are.
    """
    if settings.fields == "doc" or (settings.keep_queries == 1 and not settings.drop_repeats):
        return None
    places = []
    for segment, some in zip(segments, rows, strict=True):
        units = ranges(segment.units[some], segment.units[some + 1])
        places.append(ranges(segment.queries[units], segment.queries[units + 1]))
    pairs = list(zip(segments, places, strict=True))
    chosen = choose_queries(
        np.concatenate([segment.query_scores[queries] for segment, queries in pairs]),
        np.concatenate([segment.query_repeats[queries] for segment, queries in pairs]),
        share=settings.keep_queries,
        drop_repeats=settings.drop_repeats,
    )
    masks: list[NDArray[np.bool_]] = []
    first = 0
    for segment, queries in pairs:
        masks.append(np.zeros(len(segment.query_counts), dtype=np.bool_))
        masks[-1][queries] = chosen[first : first + len(queries)]
        first += len(queries)
    return masks


def _write_ids(folder: Path, segments: Sequence[Segment], rows: Sequence[Whole]) -> None:
    """Write the ids, their hashes, and the rank of each in the order that breaks ties: id from high to low."""
    pairs = list(zip(segments, rows, strict=True))
    lengths = [one.id_starts[some + 1] - one.id_starts[some] for one, some in pairs]
    starts = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *lengths]), dtype=np.int64)
    np.save(folder / "id_starts.npy", starts)
    ids = new_array(folder / "ids.npy", np.uint8, int(starts[-1]))
    first = 0
    for (one, some), size in zip(pairs, map(int, map(np.sum, lengths)), strict=True):
        ids[first : first + size] = one.ids[ranges(one.id_starts[some], one.id_starts[some + 1])]
        first += size
        one.release()
    ranks = np.empty(len(starts) - 1, dtype=np.int32)
    ranks[ascending(ids, starts)[::-1]] = np.arange(len(ranks), dtype=np.int32)
    np.save(folder / "ranks.npy", ranks)
    hashes = [one.keys[some, 0] for one, some in pairs]
    np.save(folder / "hashes.npy", np.concatenate([np.zeros(0, dtype=np.uint64), *hashes]))

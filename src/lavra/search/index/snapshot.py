"""A snapshot of an index: everything that searching reads, made at once from the current rows of the segments."""

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
"""Number of bytes that are compared at once, as one 64-bit number."""


def ascending(texts: NDArray[np.uint8], starts: Whole) -> Whole:
    """Sort texts by their bytes, a text that begins another one before it.

    This is a radix sort from the last block of eight bytes to the first (least significant digit first); a text takes
    part from its own last block on. It takes some tens of bytes of memory for each text, and time in proportion to the
    total length.

    Args:
        texts: (bytes,) uint8 bytes of all texts, one after the other.
        starts: (texts + 1,) where each text begins.

    Returns:
        (texts,) numbers of the texts in ascending order.
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
    """Return eight bytes of each chosen text from `begin` on as one number, with zeros after the end of a text."""
    places = starts[chosen] + begin
    ends = starts[chosen + 1]
    found = np.zeros(len(chosen), dtype=np.uint64)
    for _ in range(_BLOCK):
        inside = places < ends
        found <<= np.uint64(8)
        found[inside] |= texts[places[inside]]
        places += 1
    return found


# A snapshot of an index.


class Snapshot:
    """What is searched: postings over units, and the document of each unit, read from disk by memory map.

    Documents have numbers from 0 on, in the order in which they were written.

    Args:
        folder: The folder in which `build_snapshot` wrote the snapshot.
        postings: Postings to search instead of those in the folder; None for those in the folder.

    Attributes:
        ranks: (documents,) rank of each document in the order that breaks ties.
        units: (documents + 1,) first unit of each document; None where every document is one.
        rows: (documents, 2) segment and row of each document.
        shares: How much of the indexed queries is new to their documents.
    """

    def __init__(self, folder: Path, postings: Postings | None = None) -> None:
        self.folder = folder
        self.postings = postings or Postings(folder)
        self.ranks: NDArray[np.int32] = mapped(folder / "ranks.npy")
        starts = folder / "document_units.npy"
        self.units: Whole | None = mapped(starts) if starts.exists() else None
        self.rows: NDArray[np.int32] = mapped(folder / "rows.npy")
        self._hashes: NDArray[np.uint64] = mapped(folder / "hashes.npy")
        self._ids: NDArray[np.uint8] = mapped(folder / "ids.npy")
        self._id_starts: Whole = mapped(folder / "id_starts.npy")
        self.shares = TermShares(**read_json(folder / "shares.json"))

    def __len__(self) -> int:
        return len(self.ranks)

    def search(self, terms: list[int], top_k: int) -> tuple[Whole, NDArray[np.float32]]:
        """Return the best documents for a query, in the order of trec_eval.

        The score of a document is that of its best unit (MaxP). Documents without any term of the query do not match.

        Args:
            terms: The term numbers of the query, with repetitions.
            top_k: Most documents to return.

        Returns:
            (found,) numbers of the documents, best first, and (found,) float32 scores.
        """
        if not terms or not len(self):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        scores = self.postings.scores(terms)
        if self.units is not None:
            scores = np.maximum.reduceat(scores, self.units[:-1])
        found = best(scores, self.ranks, top_k)
        return found, scores[found]

    def id_of(self, document: int) -> str:
        """Return the id of a document by its number."""
        starts = self._id_starts
        return self._ids[starts[document] : starts[document + 1]].tobytes().decode("utf8", "surrogatepass")

    def number_of(self, identifier: str) -> int | None:
        """Return the number of the document with an id; None where there is none."""
        wanted = key_of(identifier)[0]
        ordered, order = self._by_hash
        place = int(ordered.searchsorted(wanted))
        while place < len(ordered) and ordered[place] == wanted:
            if self.id_of(int(order[place])) == identifier:
                return int(order[place])
            place += 1
        return None

    def kept_queries(self, segment: int) -> NDArray[np.bool_] | None:
        """Return (queries,) whether each generated query of a segment is indexed; None when all are."""
        path = self.folder / f"kept-{segment}.npy"
        return mapped(path) if path.exists() else None

    @cached_property
    def _by_hash(self) -> tuple[NDArray[np.uint64], Whole]:
        order = np.argsort(self._hashes, kind="stable")
        return self._hashes[order], order


def build_snapshot(
    folder: Path,
    segments: Sequence[Segment],
    rows: Sequence[Whole],
    settings: IndexSettings,
    vocabulary: int,
    *,
    keep_counts: bool = False,
) -> None:
    """Write a snapshot into an empty folder.

    Args:
        folder: The folder.
        segments: The segments of the index.
        rows: The numbers of the current rows of each segment.
        settings: The settings of the index.
        vocabulary: Number of terms.
        keep_counts: Whether counts are kept, which `Postings.with_parameters` needs.
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
    """Choose the generated queries to index, among those of all current documents together.

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
    """Write the ids, their hashes, and the rank of each in the order that breaks ties, which is descending by id."""
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

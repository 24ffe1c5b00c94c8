"""The rows of the segments: which of them are current (the last of each document), finding them, merging segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lavra.search.index.segments import BODY, ID, QUERIES, Segment
from lavra.text.term_counts import TermCounts, Whole, ranges


def last_rows(segments: Sequence[Segment]) -> list[NDArray[np.bool_]]:
    """Return for each segment which of its rows are the last of their document.

    Rows are sorted by the first half of the hash of their id. Only rows with an equal neighbour are then compared by
    the other half, so that little memory is needed.

    Args:
        segments: The segments, oldest first.

    Returns:
        For each segment (rows,) booleans.
    """
    sizes = [len(segment) for segment in segments]
    first = _column(segments, ID.start)
    order = np.argsort(first, kind="stable")
    same = first[order[1:]] == first[order[:-1]]
    repeated = order[np.concatenate([[False], same]) | np.concatenate([same, [False]])] if len(order) else order
    second = _column(segments, ID.start + 1)[repeated] if len(repeated) else repeated
    repeated_first = first[repeated]
    places = np.lexsort((repeated, second, repeated_first))
    follows = (repeated_first[places[1:]] == repeated_first[places[:-1]]) & (second[places[1:]] == second[places[:-1]])
    found = np.ones(len(first), dtype=np.bool_)
    found[repeated[places[:-1]][follows]] = False
    return np.split(found, np.cumsum(sizes)[:-1]) if segments else []


def _column(segments: Sequence[Segment], number: int) -> NDArray[np.uint64]:
    return np.concatenate([np.zeros(0, dtype=np.uint64), *(segment.keys[:, number] for segment in segments)])


def living_rows(segments: Sequence[Segment]) -> list[Whole]:
    """Return for each segment the numbers of the rows that are documents of the index: last rows without a deletion.

    Args:
        segments: The segments, oldest first.
    """
    masks = last_rows(segments)
    return [np.flatnonzero(mask & segment.alive) for mask, segment in zip(masks, segments, strict=True)]


class RowFinder:
    """Finds the current row of a document by the hash of its id; it takes 17 bytes of memory for each document.

    Args:
        segments: The segments of the index, oldest first.

    Attributes:
        seen: (documents,) whether each document was looked up, in the finder's own order.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        rows = living_rows(segments)
        self._segments = segments
        firsts = [one.keys[some, ID.start] for one, some in zip(segments, rows, strict=True)]
        self._first = np.concatenate([*firsts, np.zeros(0, dtype=np.uint64)])
        order = np.argsort(self._first, kind="stable")
        self._first = self._first[order]
        self._row = np.concatenate([*rows, np.zeros(0, dtype=np.int64)]).astype(np.int32)[order]
        numbers = np.arange(len(rows), dtype=np.int32)
        self._segment = np.repeat(numbers, [len(some) for some in rows])[order]
        self.seen = np.zeros(len(order), dtype=np.bool_)

    def __len__(self) -> int:
        return len(self._first)

    def find(self, keys: NDArray[np.uint64]) -> int | None:
        """Return the finder's number of the document with the id in these keys, and mark it as seen.

        Args:
            keys: (6,) keys of a document, see `keys_of`.

        Returns:
            The number; None where there is no such document.
        """
        place = int(self._first.searchsorted(keys[0]))
        while place < len(self._first) and self._first[place] == keys[0]:
            if (self._keys(place)[ID] == keys[ID]).all():
                self.seen[place] = True
                return place
            place += 1
        return None

    def same_body(self, number: int, keys: NDArray[np.uint64]) -> bool:
        """Return whether the document with a finder's number has the title and text of these keys."""
        return bool((self._keys(number)[BODY] == keys[BODY]).all())

    def same_queries(self, number: int, keys: NDArray[np.uint64]) -> bool:
        """Return whether the document with a finder's number has the generated queries of these keys."""
        return bool((self._keys(number)[QUERIES] == keys[QUERIES]).all())

    def _keys(self, number: int) -> NDArray[np.uint64]:
        return self._segments[self._segment[number]].keys[self._row[number]]

    def body(self, number: int) -> TermCounts:
        """Return the term counts of the units of the document with a finder's number."""
        segment, row = self._segments[self._segment[number]], self._row[number]
        units = np.arange(segment.units[row], segment.units[row + 1])
        lengths, terms, counts = segment.body.entries(units)
        return TermCounts(np.concatenate([[0], np.cumsum(lengths)]), terms, counts)

    def ids_not_seen(self) -> list[str]:
        """Return the ids of the documents that were never looked up."""
        places = np.flatnonzero(~self.seen)
        return [self._segments[self._segment[place]].id_of(int(self._row[place])) for place in places]


def merge_segments(segments: Sequence[Segment], rows: Sequence[Whole], folder: Path) -> None:
    """Write some rows of several segments as one new segment, in their order, without counting any text again.

    Args:
        segments: The segments.
        rows: For each segment the numbers of the rows to write.
        folder: The empty folder of the new segment.
    """
    chosen = list(zip(segments, rows, strict=True))
    units = [ranges(one.units[some], one.units[some + 1]) for one, some in chosen]
    queries = [ranges(one.queries[some], one.queries[some + 1]) for (one, _), some in zip(chosen, units, strict=True)]
    with (folder / "documents.jsonl").open("wb") as handle:
        line_lengths = [_copy_lines(one, some, handle) for one, some in chosen]
    np.save(folder / "line_starts.npy", _starts(line_lengths))
    ids = [one.ids[ranges(one.id_starts[some], one.id_starts[some + 1])] for one, some in chosen]
    np.save(folder / "ids.npy", np.concatenate(ids))
    np.save(folder / "id_starts.npy", _starts([one.id_starts[some + 1] - one.id_starts[some] for one, some in chosen]))
    np.save(folder / "keys.npy", np.concatenate([one.keys[some] for one, some in chosen]))
    np.save(folder / "alive.npy", np.concatenate([one.alive[some] for one, some in chosen]))
    np.save(folder / "units.npy", _starts([one.units[some + 1] - one.units[some] for one, some in chosen]))
    pairs = list(zip(segments, units, strict=True))
    np.save(folder / "unit_keys.npy", np.concatenate([one.unit_keys[some] for one, some in pairs]))
    np.save(folder / "queries.npy", _starts([one.queries[some + 1] - one.queries[some] for one, some in pairs]))
    counted = list(zip(segments, queries, strict=True))
    np.save(folder / "query_scores.npy", np.concatenate([one.query_scores[some] for one, some in counted]))
    np.save(folder / "query_repeats.npy", np.concatenate([one.query_repeats[some] for one, some in counted]))
    _joined([one.body.entries(some) for one, some in pairs]).save(folder, "body")
    _joined([one.query_counts.entries(some) for one, some in counted]).save(folder, "query")


def _copy_lines(segment: Segment, rows: Whole, target: BinaryIO) -> Whole:
    target.writelines(segment.line(row) for row in rows)
    return segment.line_starts[rows + 1] - segment.line_starts[rows]


def _joined(parts: list[tuple[Whole, NDArray[np.int32], NDArray[np.int32]]]) -> TermCounts:
    lengths, terms, counts = zip(*parts, strict=True)
    return TermCounts(_starts(list(lengths)), np.concatenate(terms), np.concatenate(counts))


def _starts(lengths: list[Whole]) -> Whole:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(lengths), dtype=np.int64)])

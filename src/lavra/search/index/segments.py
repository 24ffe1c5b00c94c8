"""A segment: a batch of documents with their term counts, which is written once and never changed."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavra.search.corpora.documents import Document
from lavra.search.index.manifest import IndexSettings
from lavra.text.chunking import cut_into_chunks
from lavra.text.term_counts import TermCounts, TermCountsBuilder, TextCounter, Whole, mapped, release

ID = slice(0, 2)
"""Columns of the keys of a row: 128-bit hashes, two columns each, of the id, of title and text, and of the queries."""
BODY = slice(2, 4)
QUERIES = slice(4, 6)


class SegmentWriter:
    """Collects rows, which are documents and deletions of documents, and writes them as a segment.

    Args:
        settings: The settings of the index.
        counter: Converts words to term numbers.
    """

    def __init__(self, settings: IndexSettings, counter: TextCounter) -> None:
        self._settings, self._counter = settings, counter
        self._lines: list[bytes] = []
        self._ids: list[bytes] = []
        self._keys = array("Q")
        self._alive = bytearray()
        self._units, self._queries = array("q", [0]), array("q", [0])
        self._unit_keys = array("Q")
        self._body, self._query_counts = TermCountsBuilder(), TermCountsBuilder()
        self._scores, self._repeats = array("f"), bytearray()
        self._text_bytes = 0

    def __len__(self) -> int:
        return len(self._alive)

    @property
    def is_full(self) -> bool:
        """Whether the rows should be written now, so that memory does not grow with the corpus."""
        return (
            len(self) >= 100_000
            or self._body.entries + self._query_counts.entries >= 2_000_000
            or self._text_bytes >= 64_000_000
        )

    def add(
        self,
        document: Document,
        keys: NDArray[np.uint64],
        body: TermCounts | None = None,
        scores: tuple[float, ...] = (),
    ) -> None:
        """Add a document.

        Args:
            document: The document, with its generated queries.
            keys: (6,) keys of the document, see `keys_of`.
            body: The term counts of its units where they are known already; None to count them.
            scores: The score of each generated query; empty when they were not scored.
        """
        contents = document.contents
        words = self._settings.analyzer.words
        whole = words(contents) if document.queries else []
        spans = self._spans(contents)
        if body is None:
            for start, end in spans:
                piece = whole if whole and len(spans) == 1 else words(contents[start:end])
                self._body.add(self._counter.numbers(piece))
        else:
            for unit in range(len(body)):
                self._body.add_counted(*body.text(unit))
        for start, end in spans if len(spans) > 1 else [(0, len(contents))]:  # as `Segment.document` returns them
            self._unit_keys.frombytes(key_of(contents[start:end]).tobytes())
        order = self._add_queries(document, scores, whole, len(spans))
        self._add_row(document.id, keys, alive=True)
        self._units.append(self._body.texts)
        row: dict[str, object] = {
            "id": document.id,
            "title": document.title,
            "text": document.text,
            "place": document.place,
        }
        if document.queries:
            row["queries"] = [document.queries[number] for number in order]
        if len(spans) > 1:
            row["chunks"] = spans
        self._add_line(row)

    def delete(self, identifier: str) -> None:
        """Add the deletion of the document with an id."""
        keys = np.zeros(6, dtype=np.uint64)
        keys[ID] = key_of(identifier)
        self._add_row(identifier, keys, alive=False)
        self._units.append(self._body.texts)
        self._add_line({"id": identifier})

    def save(self, folder: Path) -> None:
        """Write the segment into an empty folder."""
        (folder / "documents.jsonl").write_bytes(b"".join(self._lines))
        np.save(folder / "ids.npy", np.frombuffer(b"".join(self._ids), dtype=np.uint8))
        np.save(folder / "line_starts.npy", _starts(self._lines))
        np.save(folder / "id_starts.npy", _starts(self._ids))
        np.save(folder / "keys.npy", np.array(self._keys, dtype=np.uint64).reshape(-1, 6))
        np.save(folder / "alive.npy", np.frombuffer(bytes(self._alive), dtype=np.bool_))
        np.save(folder / "units.npy", np.array(self._units, dtype=np.int64))
        np.save(folder / "unit_keys.npy", np.array(self._unit_keys, dtype=np.uint64).reshape(-1, 2))
        np.save(folder / "queries.npy", np.array(self._queries, dtype=np.int64))
        np.save(folder / "query_scores.npy", np.array(self._scores, dtype=np.float32))
        np.save(folder / "query_repeats.npy", np.frombuffer(bytes(self._repeats), dtype=np.bool_))
        self._body.finish().save(folder, "body")
        self._query_counts.finish().save(folder, "query")

    def _spans(self, contents: str) -> list[tuple[int, int]]:
        size, overlap = self._settings.chunk_words, self._settings.chunk_overlap
        if not size:
            return [(0, len(contents))]
        chunks = cut_into_chunks(contents, size, overlap=overlap)
        return [(chunk.start, chunk.end) for chunk in chunks] or [(0, 0)]

    def _add_queries(
        self, document: Document, scores: tuple[float, ...], body_words: list[str], units: int
    ) -> list[int]:
        """Count each query under the unit that shares most of its terms; record its score, and whether it repeats.

        Returns:
            The order in which the queries were added, in which those of a unit are adjacent.
        """
        if not document.queries:
            self._queries.extend([self._query_counts.texts] * units)
            return []
        by_unit: list[list[int]] = [[] for _ in range(units)]
        words = [self._settings.analyzer.words(query) for query in document.queries]
        numbers = [self._counter.numbers(query) for query in words]
        if units == 1:
            by_unit[0] = list(range(len(numbers)))
        else:
            first = self._body.texts - units
            bodies = [set(self._body.terms_of(first + unit)) for unit in range(units)]
            for number, terms in enumerate(numbers):
                shared = [len(body.intersection(terms)) for body in bodies]
                by_unit[shared.index(max(shared))].append(number)
        repeats = _repeats(words, body_words, self._settings.analyzer.folded)
        for chosen in by_unit:
            for number in chosen:
                self._query_counts.add(numbers[number])
                self._scores.append(scores[number] if scores else np.nan)
                self._repeats.append(repeats[number])
            self._queries.append(self._query_counts.texts)
        return [number for chosen in by_unit for number in chosen]

    def _add_row(self, identifier: str, keys: NDArray[np.uint64], *, alive: bool) -> None:
        self._keys.frombytes(keys.tobytes())
        self._alive.append(alive)
        self._ids.append(identifier.encode("utf8", "surrogatepass"))

    def _add_line(self, row: Mapping[str, object]) -> None:
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf8", "surrogatepass") + b"\n"
        self._text_bytes += len(line)
        self._lines.append(line)


class Segment:
    """A segment that is read from disk by memory map; it stays readable when an update removes its files.

    Args:
        folder: The folder of the segment.

    Attributes:
        keys: (rows, 6) uint64 keys, see `keys_of`.
        alive: (rows,) False for the deletion of a document.
        units: (rows + 1,) first unit of each row; a unit is what is scored, a document or a chunk of it.
        unit_keys: (units, 2) uint64 128-bit hash of the text of each unit, by which its vector is found.
        queries: (units + 1,) first generated query of each unit.
        ids: (bytes,) ids of all rows in UTF-8, one after the other.
        id_starts: (rows + 1,) where each id begins.
        lines: (bytes,) documents as JSON lines.
        line_starts: (rows + 1,) where each line begins.
        body: The term counts of the text of each unit.
        query_counts: The term counts of each generated query.
        query_scores: (queries,) float32 scores, NaN where a query has none.
        query_repeats: (queries,) whether a query repeats another one of its document, or copies the text.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: NDArray[np.uint64] = mapped(folder / "keys.npy")
        self.alive: NDArray[np.bool_] = mapped(folder / "alive.npy")
        self.units: Whole = mapped(folder / "units.npy")
        self.unit_keys: NDArray[np.uint64] = mapped(folder / "unit_keys.npy")
        self.queries: Whole = mapped(folder / "queries.npy")
        self.ids: NDArray[np.uint8] = mapped(folder / "ids.npy")
        self.id_starts: Whole = mapped(folder / "id_starts.npy")
        self.lines: NDArray[np.uint8] = np.asarray(np.memmap(folder / "documents.jsonl", mode="r"))
        self.line_starts: Whole = mapped(folder / "line_starts.npy")
        self.body = TermCounts.load(folder, "body")
        self.query_counts = TermCounts.load(folder, "query")
        self.query_scores: NDArray[np.float32] = mapped(folder / "query_scores.npy")
        self.query_repeats: NDArray[np.bool_] = mapped(folder / "query_repeats.npy")

    def __len__(self) -> int:
        return len(self.alive)

    def release(self) -> None:
        """Release the memory of the mapped arrays to the operating system; they stay readable."""
        release(*(value for value in vars(self).values() if isinstance(value, np.ndarray)))
        self.body.release()
        self.query_counts.release()

    def id_bytes(self, row: int) -> bytes:
        """Return the id of a row in UTF-8."""
        return self.ids[self.id_starts[row] : self.id_starts[row + 1]].tobytes()

    def id_of(self, row: int) -> str:
        """Return the id of a row."""
        return self.id_bytes(row).decode("utf8", "surrogatepass")

    def line(self, row: int) -> bytes:
        """Return the stored JSON line of a row, with its line end."""
        return self.lines[self.line_starts[row] : self.line_starts[row + 1]].tobytes()

    def document(self, row: int) -> tuple[Document, list[tuple[int, int]]]:
        """Return the document of a row, and the (start, end) places of its chunks in its contents; without chunks the
        whole contents are one."""
        fields = json.loads(self.line(row))
        document = Document(
            fields["id"],
            fields.get("text", ""),
            fields.get("title", ""),
            tuple(fields.get("queries", ())),
            fields.get("place", ""),
        )
        chunks = fields.get("chunks") or [(0, len(document.contents))]
        return document, [(start, end) for start, end in chunks]


def keys_of(document: Document, scores: tuple[float, ...] = ()) -> NDArray[np.uint64]:
    """Return the keys of a document, by which it is seen whether its text or its generated queries have changed.

    Args:
        document: The document.
        scores: The score of each generated query; empty when they were not scored.

    Returns:
        (6,) uint64: 128-bit hashes of the id, of title and text, and of queries and scores.
    """
    queries = _digest(*document.queries, *map(repr, scores)) if document.queries else _NO_QUERIES
    return np.frombuffer(_digest(document.id) + _digest(document.title, document.text) + queries, dtype="<u8")


def key_of(*texts: str) -> NDArray[np.uint64]:
    """Return the 128-bit hash of some texts as (2,) uint64.

    Args:
        texts: The texts; their lengths are part of the hash, so that ("a", "b") and ("ab",) differ.
    """
    return np.frombuffer(_digest(*texts), dtype="<u8")


def _digest(*texts: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


_NO_QUERIES = _digest()


def _repeats(queries: list[list[str]], body: list[str], folded: Callable[[str], str]) -> list[bool]:
    """Return for each query whether an earlier one has the same words, or the text contains its words in this order."""
    text = folded(f" {' '.join(body)} ")
    seen: set[str] = set()
    found = []
    for words in queries:
        query = folded(f" {' '.join(words)} ")
        found.append(query in seen or query in text)
        seen.add(query)
    return found


def _starts(pieces: list[bytes]) -> Whole:
    return np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)]).astype(np.int64)

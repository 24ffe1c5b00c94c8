"""Updating an index: documents are added, replaced and deleted, and all changes become searchable at once.

An update may be killed at any moment: the old state stays searchable, and another update continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import write_atomically
from lavra.core.errors import InputError
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.index.dense.embedding import Vectorizer, continues, embed_missing, unit_keys, write_vectors
from lavra.search.index.dense.settings import DenseSettings
from lavra.search.index.manifest import IndexSettings, Manifest
from lavra.search.index.rows import RowFinder, last_rows, living_rows, merge_segments
from lavra.search.index.segments import ID, Segment, SegmentWriter, key_of, keys_of
from lavra.search.index.snapshot import build_snapshot
from lavra.text.term_counts import TextCounter, Vocabulary, Whole
from lavra.vectors.protocols import TextEncoder

DUPLICATE_ID = "document id that came before in the same collection (the last one counts)"

_SMALL_SEGMENTS = 8
"""Number of small segments from which on they are merged."""

_SMALL = 500_000
"""Number of entries and rows below which a segment is small."""


@dataclass
class Changes:
    """What an update did.

    Attributes:
        added: Number of new documents.
        replaced: Number of documents whose text or queries have changed.
        deleted: Number of deleted documents.
        unchanged: Number of documents that were given again without a change.
    """

    added: int = 0
    replaced: int = 0
    deleted: int = 0
    unchanged: int = 0


class IndexUpdate:
    """A running update, which `Index.update` makes.

    Documents are counted and written in batches (segments). A batch that is written stays: an update that is killed and
    started again finds its documents unchanged and does not count them again. The changes become searchable at the end
    of the update, all at once. Small segments are merged, as in a log-structured merge tree.

    Args:
        folder: The folder of the index.
        complete: Whether documents that this update does not name are deleted at its end.
        bad_rows: Counts ids that occur twice; None for not counting them.

    Attributes:
        changes: What was done so far.
        settings: The settings of the index from the end of the update on; analyzer and chunks must not be changed.
        vectorizer: What makes the vectors of the index from the end of the update on; None for an index without any.
    """

    def __init__(self, folder: Path, *, complete: bool = False, bad_rows: BadRows | None = None) -> None:
        self.changes = Changes()
        self._folder, self._complete = folder, complete
        self._bad_rows = bad_rows if bad_rows is not None else BadRows()
        self._manifest = Manifest.read(folder)
        for leftover in self._manifest.unused(folder):
            _remove(leftover)
        self.settings = self._settings = IndexSettings.from_json(self._manifest.settings)
        self.vectorizer = _without_encoder(folder, self._manifest)
        self._vocabulary = read_vocabulary(folder, self._manifest)
        self._terms_written = len(self._vocabulary)
        self._counter = TextCounter(self._settings.analyzer, self._vocabulary)
        self._segments = open_segments(folder, self._manifest)
        self._old_segments = len(self._segments)
        self._finder = RowFinder(self._segments)
        self._changed: set[int] = set()
        self._writer = SegmentWriter(self._settings, self._counter)

    def put(self, document: Document, scores: Sequence[float] = ()) -> None:
        """Add a document, or replace the one with the same id; an unchanged document is not counted again.

        Args:
            document: The document, with its generated queries.
            scores: The relevance score of each generated query; empty when they were not scored.

        Raises:
            InputError: If there are scores, but not one for each query.
        """
        if scores and len(scores) != len(document.queries):
            raise InputError(
                f"{document.place or document.id}: {len(document.queries)} queries but {len(scores)} scores",
                "give one score for each generated query, or none",
            )
        rounded = tuple(float(score) for score in scores)
        keys = keys_of(document, rounded)
        found = self._finder.find(keys)
        body = None
        if found is None:
            self.changes.added += 1
        else:
            if self._finder.same_body(found, keys):
                if found not in self._changed and self._finder.same_queries(found, keys):
                    self.changes.unchanged += 1
                    return
                body = self._finder.body(found)
            self.changes.replaced += found not in self._changed
            self._changed.add(found)
        self._writer.add(document, keys, body, rounded)
        if self._writer.is_full:
            self._write_segment()

    def delete(self, identifier: str) -> bool:
        """Delete a document that was in the index before this update.

        Args:
            identifier: The id of the document.

        Returns:
            Whether there was such a document.
        """
        keys = np.zeros(6, dtype=np.uint64)
        keys[ID] = key_of(identifier)
        found = self._finder.find(keys)
        if found is None:
            return False
        self._changed.add(found)
        self._writer.delete(identifier)
        self.changes.deleted += 1
        return True

    def commit(self) -> None:
        """Make the changes searchable, by writing a new snapshot and replacing the manifest atomically."""
        if self._complete:
            for identifier in self._finder.ids_not_seen():
                self.delete(identifier)
        self._write_segment()
        self._count_duplicates()
        self._embed()  # before the segments are merged: the manifest that each batch writes still names the old ones
        self._merge()
        dense = self._write_vectors()
        name = self._manifest.new_name("postings")
        with building_folder(self._folder / name, ours=True) as building:
            build_snapshot(building, self._segments, living_rows(self._segments), self.settings, len(self._vocabulary))
        self._manifest.postings, self._manifest.searchable = name, len(self._segments)
        self._manifest.settings = self.settings.to_json()
        self._manifest.dense, self._manifest.vectors = dense, []
        if self.vectorizer is None:
            self._manifest.dense_settings = None
        self._manifest.write(self._folder)
        for leftover in self._manifest.unused(self._folder):
            _remove(leftover)

    def _write_vectors(self) -> str:
        """Write the vectors of the current rows; return the name of their folder, an empty string for none."""
        if self.vectorizer is None:
            return ""
        keys = unit_keys(self._segments, living_rows(self._segments))
        return write_vectors(self._folder, self._manifest, keys, self.vectorizer.settings)

    def _embed(self) -> None:
        """Embed the texts that have no vector of this model yet."""
        if self.vectorizer is None:
            return
        manifest, settings = self._manifest, self.vectorizer.settings
        if manifest.dense_settings is not None and not continues(manifest, settings, self._folder):
            manifest.vectors = []  # of an update that was killed before its vectors were ever searched
        manifest.dense_settings = settings.to_json()
        embed_missing(self._folder, manifest, self._segments, living_rows(self._segments), self.vectorizer)

    def _write_segment(self) -> None:
        if not len(self._writer):
            return
        name = self._manifest.new_name("segment")
        with building_folder(self._folder / name, ours=True) as building:
            self._writer.save(building)
        if len(self._vocabulary) > self._terms_written:
            terms = self._manifest.new_name("vocabulary")
            lines = "".join(f"{term}\n" for term in self._vocabulary.since(self._terms_written))
            write_atomically(self._folder / terms, lines)
            self._manifest.vocabulary.append(terms)
            self._terms_written = len(self._vocabulary)
        self._manifest.segments.append(name)
        self._manifest.write(self._folder)
        self._segments.append(Segment(self._folder / name))
        self._writer = SegmentWriter(self._settings, self._counter)

    def _count_duplicates(self) -> None:
        """Count the documents of this update that a later one of the same id replaced."""
        segments = self._segments[self._old_segments :]
        for segment, last in zip(segments, last_rows(segments), strict=True):
            for row in np.flatnonzero(~last & segment.alive):
                document, _ = segment.document(int(row))
                self.changes.added -= self._finder.find(segment.keys[row]) is None  # once is enough
                self._bad_rows.add(DUPLICATE_ID, document.place or "?", repr(document.id))

    def _merge(self) -> None:
        """Merge the small segments at the end of the list, or all segments when most of their rows are outdated."""
        segments = self._segments
        living = living_rows(segments)
        rows = sum(map(len, segments))
        if rows > 2 * sum(map(len, living)):
            groups = _groups_by_size(segments)
            merged = [self._merged(segments[group], living[group]) for group in groups]
            self._manifest.segments = [name for name in merged if name]
            self._segments = open_segments(self._folder, self._manifest)
            return
        small = 0
        while small < len(segments) and _size(segments[-1 - small]) < _SMALL:
            small += 1
        if small >= _SMALL_SEGMENTS:
            kept = [np.flatnonzero(last) for last in last_rows(segments)]  # deletions too: older segments need them
            self._manifest.segments[-small:] = [self._merged(segments[-small:], kept[-small:])]
            self._segments = open_segments(self._folder, self._manifest)

    def _merged(self, segments: Sequence[Segment], rows: Sequence[Whole]) -> str:
        if not sum(map(len, rows)):
            return ""
        name = self._manifest.new_name("segment")
        with building_folder(self._folder / name, ours=True) as building:
            merge_segments(segments, rows, building)
        return name


def _without_encoder(folder: Path, manifest: Manifest) -> Vectorizer | None:
    """Return what keeps the vectors of an index as long as every text has one; None for an index without vectors."""
    if manifest.dense_settings is None:
        return None
    settings = DenseSettings(**manifest.dense_settings)

    def refuse() -> TextEncoder:
        raise InputError(
            f"{folder} has vectors of {settings.model}, and new texts need some",
            "open the update with a vectorizer, as `lavra index` does, or set it to None to drop the vectors",
        )

    return Vectorizer(settings, refuse)


def open_segments(folder: Path, manifest: Manifest) -> list[Segment]:
    """Open the segments that a manifest names, oldest first.

    Args:
        folder: The folder of the index.
        manifest: The manifest of the index.
    """
    return [Segment(folder / name) for name in manifest.segments]


def read_vocabulary(folder: Path, manifest: Manifest) -> Vocabulary:
    """Read the terms of an index, in the order of their numbers.

    Args:
        folder: The folder of the index.
        manifest: The manifest of the index.
    """
    return Vocabulary(
        [term for name in manifest.vocabulary for term in (folder / name).read_text("utf8").split("\n")[:-1]]
    )


def _size(segment: Segment) -> int:
    return len(segment.body.terms) + len(segment.query_counts.terms) + len(segment)


def _groups_by_size(segments: Sequence[Segment]) -> list[slice]:
    """Return runs of consecutive segments that together are not much larger than one full segment."""
    groups, first, size = [], 0, 0
    for number, segment in enumerate(segments):
        if size and size + _size(segment) > 2_500_000:
            groups.append(slice(first, number))
            first, size = number, 0
        size += _size(segment)
    return [*groups, slice(first, len(segments))]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

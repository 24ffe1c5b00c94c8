"""The search index: BM25 over documents and their generated queries, in one folder.

The folder holds segments (documents and their term counts as they came in), the postings that are searched, and a
manifest that names them. Changing what is scored (fields, k1, b, which queries are kept) never counts a text again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.building import building_folder
from lavra.core.disk.locks import exclusive
from lavra.core.errors import CorruptFile, InputError
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.index.dense.settings import DenseSettings
from lavra.search.index.dense.vectors import DenseSnapshot
from lavra.search.index.manifest import LATER, NAME, IndexSettings, Manifest
from lavra.search.index.snapshot import Snapshot, build_snapshot
from lavra.search.index.update import IndexUpdate, open_segments, read_vocabulary
from lavra.text.term_counts import Whole, ranges


class Index:
    """An index that is open for searching. It stays as it was when it was opened, whatever updates do meanwhile.

    Args:
        folder: The folder of the index.

    Attributes:
        folder: The folder of the index.
        settings: The settings of the index.
        snapshot: The snapshot that is searched; None for an index without a committed document.
        vectors: The vectors that are searched; None for an index without any.

    Raises:
        InputError: If the folder is not an index, or its analyzer has changed since.
        CorruptFile: If a file of the index is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        while True:
            before = _content(folder / NAME)
            try:
                self._open()
                if _content(folder / NAME) == before:
                    return
            except (FileNotFoundError, CorruptFile) as error:
                if _content(folder / NAME) != before:
                    continue  # an update replaced the files between reading the manifest and opening them
                if isinstance(error, CorruptFile):
                    raise
                raise CorruptFile(f"{folder} lacks {error.filename}", "make the index again with --force") from error

    def _open(self) -> None:
        self._manifest = Manifest.read(self.folder)
        self.settings = IndexSettings.from_json(self._manifest.settings)
        self._segments = open_segments(self.folder, self._manifest)[: self._manifest.searchable]
        self.snapshot = Snapshot(self.folder / self._manifest.postings) if self._manifest.postings else None
        self.vectors: DenseSnapshot | None = None
        if self.snapshot and self._manifest.dense:
            folder = self.folder / self._manifest.dense
            self.vectors = DenseSnapshot(folder, self.snapshot.ranks, self.snapshot.units)
        # The vocabulary is read now and not when it is needed: another index may take the place of this one.
        self._vocabulary = read_vocabulary(self.folder, self._manifest)

    @staticmethod
    def begin(folder: Path, settings: IndexSettings) -> None:
        """Make an empty index of an existing folder, by writing its manifest."""
        Manifest(settings.to_json(), settings.analyzer.fingerprint).write(folder)

    @classmethod
    def create(cls, folder: Path, settings: IndexSettings, *, force: bool = False) -> Index:
        """Make an empty index.

        Args:
            folder: The folder of the index.
            settings: The settings of the index.
            force: Whether an existing folder is replaced.

        Raises:
            InputError: If the folder exists and may not be replaced.
        """
        with building_folder(folder, force=force, kind="search index", later=LATER) as building:
            cls.begin(building, settings)
        return cls(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether there is an index in a folder."""
        return (folder / NAME).is_file()

    def __len__(self) -> int:
        return len(self.snapshot) if self.snapshot else 0

    @property
    def is_complete(self) -> bool:
        """Whether the last update was finished; one that was killed is finished by running it again."""
        manifest = self._manifest
        return manifest.searchable > 0 and manifest.searchable == len(manifest.segments) and not manifest.vectors

    @property
    def dense_settings(self) -> DenseSettings | None:
        """The settings of the vectors, also of those that an unfinished update has begun; None for no vectors."""
        values = self._manifest.dense_settings
        return DenseSettings(**values) if values else None

    @property
    def postings_bytes(self) -> int:
        """Size in bytes of the postings, without the stored texts."""
        return self.snapshot.postings.bytes if self.snapshot else 0

    @property
    def generated_queries(self) -> tuple[int, bool]:
        """Number of generated queries of all documents, and whether every one has a score."""
        count, scored = 0, True
        for segment, rows in zip(self._segments, self._rows(), strict=True):
            units = ranges(segment.units[rows], segment.units[rows + 1])
            queries = ranges(segment.queries[units], segment.queries[units + 1])
            count += len(queries)
            scored &= not np.isnan(segment.query_scores[queries]).any()
        return count, bool(scored)

    @contextmanager
    def update(self, *, complete: bool = False, bad_rows: BadRows | None = None) -> Iterator[IndexUpdate]:
        """Change the index: `with index.update() as update: update.put(document)`; searchable when the block ends.

        If the block fails or is killed, searches still see the old state, and the documents written so far wait for
        the next update. Open the index again (`Index(folder)`) to search the new state.

        Args:
            complete: Whether documents that the update does not name are deleted.
            bad_rows: Counts ids that occur twice; None for not counting them.

        Raises:
            InputError: If another process is updating the index.
        """
        with exclusive(self.folder / "lock", f"{self.folder} is being updated"):
            update = IndexUpdate(self.folder, complete=complete, bad_rows=bad_rows)
            yield update
            update.commit()

    def change_settings(self, **changes: Any) -> Index:
        """Change what is scored and how, from the same term counts.

        Args:
            changes: New values of `fields`, `k1`, `b`, `query_weight`, `keep_queries` or `drop_repeats`.

        Returns:
            The index with the new settings.

        Raises:
            InputError: If the analyzer or the chunks are to be changed, for which the texts must be counted again.
        """
        wrong = set(changes) & {"analyzer", "chunk_words", "chunk_overlap"}
        if wrong:
            raise InputError(f"{', '.join(sorted(wrong))} cannot be changed", "make the index again with --force")
        with exclusive(self.folder / "lock", f"{self.folder} is being updated"):
            update = IndexUpdate(self.folder)
            update.settings = dataclasses.replace(self.settings, **changes)
            update.commit()
        return Index(self.folder)

    def variant(self, folder: Path, *, keep_counts: bool = False, **changes: Any) -> Snapshot:
        """Write the snapshot for other settings into another folder; the index is not changed.

        Args:
            folder: The folder to make.
            keep_counts: Whether the counts are kept, so that k1 and b can be tuned on the snapshot.
            changes: New values of settings, as for `change_settings`.
        """
        settings = dataclasses.replace(self.settings, **changes)
        folder.mkdir(parents=True)
        terms = len(self._vocabulary)
        build_snapshot(folder, self._segments, self._rows(), settings, terms, keep_counts=keep_counts)
        return Snapshot(folder)

    def query_terms(self, query: str) -> list[int]:
        """Return the term numbers of a query; terms that no document has are left out."""
        return self.numbers_of(self.settings.analyzer.terms(query))

    def numbers_of(self, terms: Iterable[str]) -> list[int]:
        """Return the numbers of terms; those that no document has are left out."""
        numbers = self._vocabulary.numbers
        return [numbers[term] for term in terms if term in numbers]

    def search(self, query: str, top_k: int = 10) -> tuple[Whole, NDArray[np.float32]]:
        """Return the best documents for a query.

        Args:
            query: The query as a person writes it.
            top_k: Most documents to return; it may be more than there are documents.

        Returns:
            (found,) numbers of the documents, and (found,) float32 scores; by descending score, then descending id.

        Raises:
            InputError: If the index has no committed document.
        """
        if self.snapshot is None:
            raise InputError(f"{self.folder} holds no searchable documents yet", "run `lavra index` to its end")
        return self.snapshot.search(self.query_terms(query), top_k)

    def ids(self, numbers: Whole) -> list[str]:
        """Return the ids of documents by their numbers."""
        assert self.snapshot is not None
        return [self.snapshot.id_of(number) for number in numbers.tolist()]

    def document(self, number: int) -> tuple[Document, list[tuple[int, int]]]:
        """Return a document by its number, and the (start, end) places of its chunks in its contents."""
        assert self.snapshot is not None
        segment, row = self.snapshot.rows[number].tolist()
        return self._segments[segment].document(row)

    def indexed_queries(self, number: int) -> list[str]:
        """Return the generated queries of a document that are indexed: all of them, or those that were kept."""
        assert self.snapshot is not None
        if self.settings.fields == "doc":
            return []
        place, row = self.snapshot.rows[number].tolist()
        segment = self._segments[place]
        queries = list(segment.document(row)[0].queries)
        kept = self.snapshot.kept_queries(place)
        if kept is None:
            return queries
        first = int(segment.queries[segment.units[row]])
        return [query for query, keep in zip(queries, kept[first : first + len(queries)], strict=True) if keep]

    def documents(self) -> Iterator[Document]:
        """Yield every document, in the order of their numbers."""
        for number in range(len(self)):
            yield self.document(number)[0]

    def _rows(self) -> list[Whole]:
        """Return the rows of each segment that are searched."""
        if self.snapshot is None:
            return [np.zeros(0, dtype=np.int64) for _ in self._segments]
        places = self.snapshot.rows
        return [places[places[:, 0] == number, 1].astype(np.int64) for number in range(len(self._segments))]


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None

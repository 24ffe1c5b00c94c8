"""Files of generated queries, in which those of a document are looked up, and the record of how they were generated."""

from __future__ import annotations

import json
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import InputError
from lavra.data.readers.compressed import open_binary
from lavra.data.readers.lines import text_field
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.index.segments import key_of

UNUSED = "expansion of a document that is not in the corpus"


class Expansion(NamedTuple):
    """The generated queries of a document.

    Attributes:
        queries: The queries, as they were generated.
        scores: The relevance score of each query; empty when they were not scored.
    """

    queries: tuple[str, ...]
    scores: tuple[float, ...]


class ExpansionFile:
    """A file of generated queries, in which those of a document are looked up; memory holds only hashes and offsets.

    Rows of chunks, `document#3`, belong to the document, and several rows of one document are joined in the order of
    the file. The field of the queries is `predicted_queries` or `queries`.

    Args:
        path: The file, which may be compressed; it is then unpacked into a temporary file.

    Attributes:
        queries: Number of generated queries in the file.
        scored: Whether every query has a score.

    Raises:
        InputError: If the file cannot be read, or a line has no id, no list of queries, or not one score for each
            query; the message names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_binary(path) as opened:
            if path.suffix in (".gz", ".zst", ".xz"):
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                shutil.copyfileobj(opened, self._file)
            else:
                self._file = path.open("rb")
        self.queries, self.scored = 0, True
        self._scan()

    def __enter__(self) -> ExpansionFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def of(self, identifier: str) -> Expansion:
        """Return the generated queries of a document.

        Args:
            identifier: The id of the document.

        Returns:
            The queries and their scores; empty where the file has no row for the document.
        """
        wanted = key_of(identifier)[0]
        first = int(self._hashes.searchsorted(wanted))
        last = int(self._hashes.searchsorted(wanted, side="right"))
        queries: list[str] = []
        scores: list[float] = []
        for row in sorted(self._rows[first:last].tolist()):
            self._file.seek(self._offsets[row])
            fields = json.loads(self._file.readline())
            if identifier in _names(str(fields.get("id", fields.get("_id")))):
                self._used[row] = 1
                queries += _queries(fields)
                scores += fields.get("scores") or ()
        return Expansion(tuple(queries), tuple(scores) if len(scores) == len(queries) else ())

    def count_unused(self, bad_rows: BadRows) -> None:
        """Count the rows that were never looked up, because their documents are not in the corpus.

        Args:
            bad_rows: The counts to add to.
        """
        for row in np.flatnonzero(np.frombuffer(self._used, dtype=np.uint8) == 0).tolist():
            bad_rows.add(UNUSED, f"{self.path.name}:{row + 1}")

    def _scan(self) -> None:
        hashes, rows, offsets = array("Q"), array("i"), array("q")
        self._file.seek(0)
        offset = 0
        for number, line in enumerate(self._file):
            offsets.append(offset)
            offset += len(line)
            if line.isspace():
                continue
            fields = _checked(line, f"{self.path.name}:{number + 1}")
            found = len(_queries(fields))
            self.queries += found
            self.scored &= found == 0 or bool(fields.get("scores"))
            for name in _names(text_field(fields, ("id", "_id"), f"{self.path.name}:{number + 1}", "id")):
                hashes.append(int(key_of(name)[0]))
                rows.append(number)
        keys = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        self._hashes, self._rows = keys[order], np.frombuffer(rows, dtype=np.int32)[order]
        self._offsets = offsets
        self._used = bytearray(len(offsets))
        if not self.queries:
            raise InputError(f"{self.path} holds no generated query", "make it with `lavra expand`")


def expanded(documents: Iterable[Document], expansions: ExpansionFile) -> Iterator[tuple[Document, tuple[float, ...]]]:
    """Yield each document with its generated queries, and their scores.

    Args:
        documents: The documents.
        expansions: The file of generated queries.
    """
    for document in documents:
        queries, scores = expansions.of(document.id)
        yield (replace(document, queries=queries) if queries else document), scores


def _checked(line: bytes, place: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place} is not JSON: {error}", "each line must be one JSON object") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("predicted_queries", fields.get("queries")), list):
        raise InputError(f"{place} has no list of queries", 'write {"id": "...", "predicted_queries": ["...", "..."]}')
    scores = fields.get("scores")
    if scores and len(scores) != len(_queries(fields)):
        raise InputError(
            f"{place} has {len(_queries(fields))} queries but {len(scores)} scores", "give one score for each query"
        )
    return fields


def _queries(fields: dict[str, Any]) -> list[str]:
    return [str(query) for query in fields.get("predicted_queries", fields.get("queries", ()))]


def _names(identifier: str) -> tuple[str, ...]:
    """Return the id of a row, and the id of the document where the row belongs to a chunk."""
    document, mark, number = identifier.rpartition("#")
    return (identifier, document) if mark and document and number.isdigit() else (identifier,)


def _beside(expansions: Path) -> Path:
    return expansions.with_name(expansions.name + ".provenance.json")


def write_provenance(expansions: Path, provenance: dict[str, Any]) -> None:
    """Write the record of how a file of queries was generated, as FILE.provenance.json beside it."""
    write_json(_beside(expansions), provenance)


def read_provenance(expansions: Path) -> dict[str, Any] | None:
    """Return the record of how a file of queries was generated.

    Args:
        expansions: The file of queries.

    Returns:
        The record; None for a file that another program wrote.

    Raises:
        CorruptFile: If the record is not JSON.
    """
    path = _beside(expansions)
    found = read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) else None

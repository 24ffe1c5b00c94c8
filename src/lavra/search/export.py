"""Exporting expanded documents for other search engines: Anserini, Elasticsearch, Parquet, SQLite."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from lavra.core.disk.files import sync_file, sync_folder
from lavra.core.disk.replacing import check_replaceable_file
from lavra.core.disk.sqlite_errors import is_no_room
from lavra.core.errors import InputError
from lavra.search.corpora.documents import Document

ExportFormat = Literal["anserini", "elasticsearch", "parquet", "sqlite"]
"""Names of the formats."""

_AT_ONCE = 5000
"""Number of documents that are written at once."""


def export_documents(
    documents: Iterable[Document], path: Path, kind: ExportFormat, *, name: str = "documents", force: bool = False
) -> int:
    """Write documents with their generated queries, without holding them all in memory.

    "anserini" is JSON Lines with `id` and `contents`, to which the queries are appended, as docTTTTTquery does;
    "elasticsearch" is a bulk request body, also for OpenSearch, with title, text and queries as fields; "parquet" has
    the columns id, title, text and queries; "sqlite" is a database with a full-text table (FTS5) of the same columns.

    Args:
        documents: The documents, as `Index.documents` yields them.
        path: The file to write, completely or not at all.
        kind: The format.
        name: The name of the Elasticsearch index, or of the SQLite table.
        force: Whether an existing file is replaced.

    Returns:
        The number of documents.

    Raises:
        InputError: If the format is unknown, the file may not be written, or the name of the table is not an
            identifier.
    """
    writers: dict[str, Callable[[Iterator[Document], Path, str], int]] = {
        "anserini": _write_anserini,
        "elasticsearch": _write_elasticsearch,
        "parquet": _write_parquet,
        "sqlite": _write_sqlite,
    }
    if kind not in writers:
        raise InputError(f"{kind!r} is not an export format", f"use one of {', '.join(get_args(ExportFormat))}")
    check_replaceable_file(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    temporary.unlink(missing_ok=True)
    try:
        count = writers[kind](iter(documents), temporary, name)
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_anserini(documents: Iterator[Document], path: Path, _: str) -> int:
    def row(document: Document) -> dict[str, object]:
        return {"id": document.id, "contents": " ".join([document.contents, *document.queries])}

    return _write_lines(path, ([row(document)] for document in documents))


def _write_elasticsearch(documents: Iterator[Document], path: Path, name: str) -> int:
    def rows(document: Document) -> list[dict[str, object]]:
        action: dict[str, object] = {"index": {"_index": name, "_id": document.id}}
        return [action, {"title": document.title, "text": document.text, "queries": list(document.queries)}]

    return _write_lines(path, map(rows, documents))


def _write_lines(path: Path, groups: Iterable[list[dict[str, object]]]) -> int:
    count = 0
    with path.open("w", encoding="utf8", errors="surrogatepass", newline="\n") as handle:
        for group in groups:
            handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in group)
            count += 1
    return count


def _write_parquet(documents: Iterator[Document], path: Path, _: str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, several = pa.string(), pa.list_(pa.string())
    schema = pa.schema([("id", text), ("title", text), ("text", text), ("queries", several)])
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(documents, _AT_ONCE)):
            columns = {name: [getattr(one, name) for one in batch] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))
            count += len(batch)
    return count


def _write_sqlite(documents: Iterator[Document], path: Path, name: str) -> int:
    if not name.isidentifier():
        raise InputError(f"{name!r} cannot name a table", "use letters, digits and underscores")
    count = 0
    database = sqlite3.connect(path)
    try:
        options = "tokenize = 'unicode61 remove_diacritics 0'"  # accents tell words apart, as in lavra's own index
        database.execute(f'CREATE VIRTUAL TABLE "{name}" USING fts5(id UNINDEXED, title, text, queries, {options})')
        while batch := list(islice(documents, _AT_ONCE)):
            rows = [(one.id, one.title, one.text, "\n".join(one.queries)) for one in batch]
            database.executemany(f'INSERT INTO "{name}" VALUES (?, ?, ?, ?)', rows)
            count += len(batch)
        database.commit()
    except sqlite3.OperationalError as error:
        if is_no_room(error):  # the same words as for any other file on a full disk
            raise OSError(errno.ENOSPC, str(error), str(path)) from error
        raise
    finally:
        database.close()
    return count

"""Exports open in what they are made for, and are whole or absent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from lavra.core.errors import InputError
from lavra.search.corpora.documents import Document
from lavra.search.corpora.formats import open_collection
from lavra.search.export import export_documents

DOCUMENTS = [
    Document("d1", "O rio Tejo.", "Tejo", ("onde fica o rio?", "qual é a extensão")),
    Document("d/2", 'Uma "citação" e\numa linha.', "", ()),
]


def test_anserini(tmp_path: Path) -> None:
    assert export_documents(DOCUMENTS, tmp_path / "out.jsonl", "anserini") == 2
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": "d1", "contents": "Tejo O rio Tejo. onde fica o rio? qual é a extensão"}
    read = list(open_collection(str(tmp_path / "out.jsonl")).documents())
    assert [document.id for document in read] == ["d1", "d/2"]


def test_elasticsearch_bulk(tmp_path: Path) -> None:
    export_documents(DOCUMENTS, tmp_path / "bulk.ndjson", "elasticsearch", name="rios")
    text = (tmp_path / "bulk.ndjson").read_text()
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0] == {"index": {"_index": "rios", "_id": "d1"}}
    assert lines[1]["queries"] == ["onde fica o rio?", "qual é a extensão"]
    assert lines[3]["text"] == DOCUMENTS[1].text


def test_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    export_documents(DOCUMENTS, tmp_path / "out.parquet", "parquet")
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["d1", "d/2"]
    assert rows[0]["queries"] == list(DOCUMENTS[0].queries)


def test_sqlite_full_text(tmp_path: Path) -> None:
    export_documents(DOCUMENTS, tmp_path / "out.db", "sqlite", name="docs")
    database = sqlite3.connect(tmp_path / "out.db")
    assert database.execute("SELECT id FROM docs WHERE docs MATCH 'extensão'").fetchall() == [("d1",)]
    assert database.execute("SELECT id FROM docs WHERE docs MATCH 'extensao'").fetchall() == []
    assert database.execute("SELECT count(*) FROM docs").fetchone() == (2,)
    with pytest.raises(InputError, match="cannot name a table"):
        export_documents(DOCUMENTS, tmp_path / "other.db", "sqlite", name='x"; DROP')


def test_an_existing_file_is_kept_and_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    export_documents(DOCUMENTS[:1], tmp_path / "out.jsonl", "anserini")
    with pytest.raises(InputError, match="exists already"):
        export_documents(DOCUMENTS, tmp_path / "out.jsonl", "anserini")

    def failing() -> Iterator[Document]:
        yield DOCUMENTS[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        export_documents(failing(), tmp_path / "out.jsonl", "anserini", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    with pytest.raises(InputError, match="'csv' is not an export format"):
        export_documents(DOCUMENTS, tmp_path / "x.csv", "csv")  # pyright: ignore[reportArgumentType]

"""What a person sees: passages, marks, and the generated query that made the match; and expansion files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.core.errors import InputError
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.expansion.queries import UNUSED, Expansion, ExpansionFile, expanded
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.search.search import PASSAGE_LETTERS, _window, marked, search
from lavra.text.analyzers import Analyzer


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


DOCUMENTS = [
    Document(
        "tejo",
        "Nasce em Espanha. O rio Tejo atravessa Portugal e chega ao mar em Lisboa. " + "Tem muitas pontes. " * 40,
        "Tejo",
        ("qual é o maior curso de água da península ibérica", "onde desagua o Tejo"),
        "rios.jsonl:1",
    ),
    Document("douro", "O Douro é um rio que corre para o Porto.", "Douro"),
]


def make(folder: Path, **changes) -> Index:
    index = Index.create(folder, IndexSettings(Analyzer("pt"), **changes))
    with index.update() as update:
        for document in DOCUMENTS:
            update.put(document, scores=(0.9, 0.1) if document.queries else ())
    return Index(folder)


def test_passage_and_marks(tmp_path: Path) -> None:
    first, second = search(make(tmp_path / "index"), "rio de Portugal")
    assert (first.id, first.rank, first.title, first.place) == ("tejo", 1, "Tejo", "rios.jsonl:1")
    assert first.passage.startswith("O rio Tejo atravessa Portugal")
    assert len(first.passage) <= PASSAGE_LETTERS
    assert marked(first.passage, first.marks).startswith("O **rio** Tejo atravessa **Portugal**")
    assert first.expansion == ""
    assert second.id == "douro"
    assert first.to_json()["score"] > second.to_json()["score"]


def test_the_generated_query_that_made_the_match_is_shown(tmp_path: Path) -> None:
    (hit,) = search(make(tmp_path / "index"), "península ibérica em Lisboa")
    assert hit.expansion == "qual é o maior curso de água da península ibérica"
    assert marked(hit.expansion, hit.expansion_marks, "[", "]").endswith("[península] [ibérica]")
    assert "Lisboa" in hit.passage


def test_a_query_that_was_filtered_out_is_not_shown(tmp_path: Path) -> None:
    index = make(tmp_path / "index", keep_queries=0.5)
    assert index.indexed_queries(0) == [DOCUMENTS[0].queries[0]]
    assert search(index, "desagua") == []
    assert search(index.change_settings(fields="doc"), "península") == []


def test_a_long_sentence_is_shown_around_the_words(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IndexSettings(Analyzer("pt")))
    with index.update() as update:
        update.put(Document("x", "palavra " * 300 + "agulha " + "palha " * 300))
    (hit,) = search(Index(tmp_path / "index"), "agulha")
    assert "agulha" in hit.passage
    assert len(hit.passage) <= PASSAGE_LETTERS + 10


def test_the_best_chunk_is_shown(tmp_path: Path) -> None:
    hit = search(make(tmp_path / "index", chunk_words=12), "muitas pontes")[0]
    assert "pontes" in hit.passage
    assert "Nasce" not in hit.passage


def write(path: Path, rows: list[object]) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["expansions.jsonl", "expansions.jsonl.gz"])
def test_expansions_are_found_by_document_and_by_chunk(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": "b#0", "predicted_queries": ["q1"], "scores": [0.5]},
        {"id": 7, "predicted_queries": ["q2", "q3"], "scores": [1, 2]},
        {"id": "b#1", "predicted_queries": ["q4"], "scores": [0.7]},
        {"id": "nowhere", "predicted_queries": ["q5"], "scores": [0.7]},
    ]
    with ExpansionFile(write(tmp_path / name, rows)) as found:
        assert (found.queries, found.scored) == (5, True)
        assert found.of("b") == Expansion(("q1", "q4"), (0.5, 0.7))
        assert found.of("x") == Expansion((), ())
        pairs = list(expanded([Document("7", "t"), Document("c", "t")], found))
        assert pairs == [(Document("7", "t", queries=("q2", "q3")), (1, 2)), (Document("c", "t"), ())]
        problems = BadRows()
        found.count_unused(problems)
        assert problems.examples == {UNUSED: [(f"{name}:4", "")]}


def test_scores_count_only_when_every_query_has_one(tmp_path: Path) -> None:
    rows = [{"id": "b#0", "predicted_queries": ["q1"], "scores": [0.5]}, {"id": "b#1", "predicted_queries": ["q2"]}]
    with ExpansionFile(write(tmp_path / "e.jsonl", rows)) as found:
        assert not found.scored
        assert found.of("b").scores == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"predicted_queries": ["a"]}, r"e\.jsonl:1 has no id"),
        ({"id": "a"}, r"e\.jsonl:1 has no list of queries"),
        ({"id": "a", "predicted_queries": ["a"], "scores": [1, 2]}, "1 queries but 2 scores"),
        ({"id": "a", "predicted_queries": []}, "no generated query"),
    ],
)
def test_bad_expansions_are_named(tmp_path: Path, row: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExpansionFile(write(tmp_path / "e.jsonl", [row]))


def test_marks_are_counted_in_linear_time_and_as_by_hand() -> None:
    marks = tuple((start, start + 4) for start in range(0, 200_000, 7))
    text = "erro i " * 40_000
    start, end = _window(text, 0, len(text), marks)
    assert 0 <= start < end < 1000

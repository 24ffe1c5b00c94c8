"""Collections on disk: every layout, and every kind of bad input with its message."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lavra.config.flags import flags_of
from lavra.config.search import IndexConfig
from lavra.core.errors import InputError
from lavra.data.readers.lines import warning_lines
from lavra.data.readers.rows import (
    _REMEDIES,
    BESIDE_CORPUS,
    BROKEN_UTF8,
    BY_MARK,
    EMPTY,
    MISSING_COLUMN,
    NOT_TEXT,
    WINDOWS_1252,
    BadRows,
    SourceDocument,
)
from lavra.search.corpora import installed as docstrings
from lavra.search.corpora.documents import (
    JUDGED_TWICE,
    UNKNOWN_DOCUMENT,
    UNKNOWN_QUERY,
    read_qrels,
)
from lavra.search.corpora.formats import BeirCollection, FileCollection, open_collection, read_queries
from lavra.search.corpora.installed import DocstringCollection, summary_and_body
from lavra.search.expansion.training_rows import NO_PAIR, Pair, read_triples, training_pairs


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    write_jsonl(
        tmp_path / "corpus.jsonl.gz",
        [
            {"_id": "d1", "title": "Água", "text": "A água ferve a cem graus."},
            {"_id": "d2", "title": "", "text": "Lisboa fica no Tejo."},
            {"_id": "empty", "title": "", "text": "  "},
        ],
    )
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "quando ferve?"}, {"_id": 2, "text": "onde?"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n2\td2\t1\n2\td1\t0\n")
    return tmp_path


def test_beir_folder(beir: Path) -> None:
    problems = BadRows()
    collection = open_collection(str(beir), problems)
    assert isinstance(collection, BeirCollection)
    documents = list(collection.documents())
    assert [(document.id, document.contents, document.place) for document in documents] == [
        ("d1", "Água A água ferve a cem graus.", "corpus.jsonl.gz:1"),
        ("d2", "Lisboa fica no Tejo.", "corpus.jsonl.gz:2"),
    ]
    assert problems.counts == {EMPTY: 1}
    assert warning_lines(problems) == ["warning: 1 × empty document (corpus.jsonl.gz:3: empty)"]
    assert collection.queries() == {"q1": "quando ferve?", "2": "onde?"}
    assert collection.splits == ("test",)
    assert collection.qrels("test") == {"q1": {"d1": 1}, "2": {"d2": 1, "d1": 0}}
    with pytest.raises(InputError, match="'dev'"):
        collection.qrels("dev")


def test_pairs_follow_the_corpus_and_count_unknown_names(beir: Path) -> None:
    with (beir / "qrels" / "test.tsv").open("a") as handle:
        handle.write("q9\td1\t1\nq1\td9\t1\n")
    problems = BadRows()
    pairs = list(training_pairs(BeirCollection(beir), "test", problems))
    assert pairs == [
        Pair("d1", "Água A água ferve a cem graus.", "quando ferve?"),
        Pair("d2", "Lisboa fica no Tejo.", "onde?"),
    ]
    assert problems.counts == {UNKNOWN_QUERY: 1, UNKNOWN_DOCUMENT: 1}


def test_pairs_of_unrelated_files_are_refused(beir: Path) -> None:
    (beir / "qrels" / "test.tsv").write_text("q7\tx\t1\n")
    with pytest.raises(InputError, match="no pair"):
        list(training_pairs(BeirCollection(beir), "test"))


def test_anserini_jsonl_with_generated_queries(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "docs.jsonl",
        [
            {"id": 7, "contents": "texto", "predicted_queries": ["a?", " ", "b?"]},
            {"id": "8", "contents": "x", "querygen": "c\nd"},
        ],
    )
    documents = list(open_collection(str(path)).documents())
    assert [(document.id, document.queries) for document in documents] == [("7", ("a?", "b?")), ("8", ("c", "d"))]


def test_tab_separated_collection_and_queries(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text("1\tum texto\n2\toutro\n")
    (tmp_path / "queries.tsv").write_text("query_id\tquery\nq1\tonde fica\n")
    assert [d.text for d in FileCollection([str(tmp_path / "collection.tsv")]).documents()] == ["um texto", "outro"]
    assert read_queries(tmp_path / "queries.tsv") == {"q1": "onde fica"}
    (tmp_path / "bad.tsv").write_text("1\tum\nsem tabulador\n")
    with pytest.raises(InputError, match=r"bad\.tsv:2"):
        list(FileCollection([str(tmp_path / "bad.tsv")], BadRows("error")).documents())


def test_plain_folder_of_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("O rio corre.")
    (tmp_path / "b.md").write_text("# Título\n\nTexto.")
    collection = open_collection(str(tmp_path))
    assert [document.text for document in collection.documents()] == ["O rio corre.", "# Título\n\nTexto."]
    assert len({document.id for document in collection.documents()}) == 2
    assert collection.queries() == {}
    with pytest.raises(InputError, match="no judgements"):
        collection.qrels("test")


def test_triples(tmp_path: Path) -> None:
    path = tmp_path / "triples.tsv"
    path.write_text("query\tpositive\tnegative\nwhat is it\tthe passage\tanother\nwho\tpassage two\n")
    assert [(pair.query, pair.passage) for pair in read_triples(path, BadRows())] == [
        ("what is it", "the passage"),
        ("who", "passage two"),
    ]
    path.write_text("only one column\n")
    problems = BadRows()
    assert not list(read_triples(path, problems))
    assert problems.examples == {NO_PAIR: [("triples.tsv:1", "only one column")]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "sem id"}', r"corpus\.jsonl:2: document without an id"),
        ("{broken", r"corpus\.jsonl:2: bad JSON"),
        ("[1, 2]", r"corpus\.jsonl:2: bad JSON \(a list"),
        ("[" * 100_000, r"corpus\.jsonl:2: bad JSON"),
    ],
)
def test_a_bad_line_is_left_out_and_counted_or_stops_with_its_name(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "d1", "text": "bom"}\n' + line + '\n{"_id": "d2", "text": "fim"}\n')
    for make in (lambda bad: BeirCollection(tmp_path, bad), lambda bad: FileCollection([str(path)], bad)):
        problems = BadRows()
        assert [one.id for one in make(problems).documents()] == ["d1", "d2"]
        assert problems.total == 1
        with pytest.raises(InputError, match=message):
            list(make(BadRows("error")).documents())


def test_a_bad_line_of_a_tab_separated_file_is_left_out_and_a_header_is_no_document(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_bytes(
        b"id\ttitle\ttext\n1\tum\tbom\nsem tab\n2\tdois\t\xf0\xf2" + b"\xc9\xd7" * 99 + b"\n3\ttres\tfim\n4\tx\n"
    )
    problems = BadRows()
    found = [(one.id, one.title, one.text) for one in FileCollection([str(path)], problems).documents()]
    assert found == [("1", "um", "bom"), ("3", "tres", "fim")]
    assert sorted(problems.examples.values()) == [
        [("c.tsv:3", "sem tab")],
        [("c.tsv:4", "byte 0xf0")],
        [("c.tsv:6", "2 fields, and the header has 3")],
    ]
    path.write_text("1\tid text\n2\tb\n")
    assert [one.id for one in FileCollection([str(path)]).documents()] == ["1", "2"]


@pytest.mark.parametrize("place", ["c.jsonl", "c.tsv", "c.csv", "."])
@pytest.mark.parametrize(("encoding", "told"), [("utf16", BY_MARK), ("utf-8-sig", None), ("latin-1", WINDOWS_1252)])
def test_a_collection_is_read_in_every_encoding_and_a_guess_is_told(
    tmp_path: Path, place: str, encoding: str, told: str | None
) -> None:
    row = {"id": "d1", "text": "a mão já não é sã"}
    separator = "\t" if place == "c.tsv" else ","
    table = "".join(f"{separator.join(line)}\n" for line in (row, row.values()))
    content = json.dumps(row, ensure_ascii=False) if place in ("c.jsonl", ".") else table
    (tmp_path / ("c.jsonl" if place == "." else place)).write_bytes(content.encode(encoding))
    problems = BadRows()
    location = str(tmp_path / place)
    assert [(one.id, one.text) for one in open_collection(location, problems).documents()] == [("d1", row["text"])]
    assert set(problems.changes) | set(problems.notes) == ({told} if told else set())
    assert any(told in line for line in warning_lines(problems)) if told else not warning_lines(problems)
    if told == WINDOWS_1252:
        with pytest.raises(InputError, match="read as Windows-1252"):
            list(open_collection(location, BadRows(policy="strict")).documents())


@pytest.mark.parametrize("policy", ["error", "strict"])
@pytest.mark.parametrize("place", ["c.jsonl", "c.tsv", "c.csv", "."])
def test_the_policy_holds_for_every_format_of_a_collection(tmp_path: Path, place: str, policy: Any) -> None:
    contents = {
        "c.jsonl": '{"id": "1", "text": "bom"}\n{"id": "2"}\n',
        "c.tsv": "1\tbom\n2\t\n",
        "c.csv": "id,text\n1,bom\n2,\n",
    }
    (tmp_path / ("c.jsonl" if place == "." else place)).write_text(contents.get(place, contents["c.jsonl"]))
    problems = BadRows()
    assert [one.text for one in open_collection(str(tmp_path / place), problems).documents()] == ["bom"]
    assert problems.total == 1
    with pytest.raises(InputError, match=r"c\.(jsonl|tsv|csv):[23]: (empty document|missing column)"):
        list(open_collection(str(tmp_path / place), BadRows(policy=policy)).documents())


def test_text_in_other_columns_no_text_and_half_a_character_are_told(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "passage": "um"},
        {"id": "2", "texto": "dois"},
        {"id": "3", "text": ["tres"]},
        {"id": "4", "text": "quatro \ud800"},
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = BadRows()
    assert [one.text for one in FileCollection([str(path)], problems).documents()] == ["um"]
    assert problems.examples == {
        MISSING_COLUMN: [("c.jsonl:2", "no 'text or contents or passage or body' among id, texto")],
        NOT_TEXT: [("c.jsonl:3", "'text' holds a list")],
        BROKEN_UTF8: [("c.jsonl:4", "half a character")],
    }


def test_advice_names_no_option_that_the_command_lacks(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,body\n1,bom\n")
    with pytest.raises(InputError) as caught:
        list(open_collection(str(tmp_path / "c.csv"), BadRows()).documents())
    assert "--text-column" not in f"{caught.value} {caught.value.remedy}"
    flags = {name for flag in flags_of(IndexConfig) for name in (*flag.names, *(other.flag for other in flag.sets))}
    problems = BadRows(policy="strict")
    open_collection(str(tmp_path / "c.csv"), problems)
    for kind in _REMEDIES:
        with pytest.raises(InputError) as caught:
            problems.change(kind, "c.csv:1")
        assert set(re.findall(r"--[a-z-]+", caught.value.remedy)) <= flags


def test_of_a_folder_with_beir_folders_in_it_the_corpora_alone_are_documents(
    beir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(beir, home / "one")
    (home / "more.md").write_text("mais um")
    problems = BadRows()
    found = [Path(one.place.split(":")[0]).name for one in open_collection(str(home), problems).documents()]
    assert sorted(found) == ["corpus.jsonl.gz", "corpus.jsonl.gz", "more.md"]
    left_out = {Path(name).name for name in problems.left_out[BESIDE_CORPUS]}
    assert left_out == {"queries.jsonl", "test.tsv"}
    assert any("queries.jsonl" in line for line in warning_lines(problems))
    beside = BeirCollection(beir).beside()
    assert {Path(name).name for name in beside} == left_out


def test_broken_encoding_and_damaged_compression_are_named(tmp_path: Path) -> None:
    cyrillic = '{"_id": "2", "text": "Все счастливые семьи похожи друг на друга"}\n'.encode("koi8-r")
    (tmp_path / "corpus.jsonl").write_bytes('{"_id": "1", "text": "é"}\n'.encode() + cyrillic)
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: broken UTF-8"):
        list(BeirCollection(tmp_path, BadRows("error")).documents())
    (tmp_path / "corpus.jsonl").unlink()
    whole = gzip.compress(b'{"_id": "1", "text": "a"}\n' * 5000)
    (tmp_path / "corpus.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        list(BeirCollection(tmp_path).documents())


def test_a_query_id_with_two_texts_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": "a"}, {"_id": "q", "text": "b"}])
    with pytest.raises(InputError, match=r"queries\.jsonl:2.*another text"):
        read_queries(path)


def test_missing_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.jsonl is missing"):
        BeirCollection(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        list(open_collection(str(tmp_path / "nowhere")).documents())
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}])
    with pytest.raises(InputError, match=r"queries\.jsonl is missing"):
        open_collection(str(tmp_path)).queries()


def test_judgements_in_the_columns_of_trec_are_read(tmp_path: Path) -> None:
    (tmp_path / "qrels.txt").write_text("q1 0 d1 2\nq1 0 d2 0\nq2 0 d3 1\n")
    assert read_qrels(tmp_path / "qrels.txt") == {"q1": {"d1": 2, "d2": 0}, "q2": {"d3": 1}}


def test_bad_judgements_are_named(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq\td\tmuch\n")
    with pytest.raises(InputError, match=r"qrels\.tsv:2.*'much'"):
        read_qrels(path)
    for grade in ("NA", "", "-", "much"):
        path.write_text(f"q1\td1\t{grade}\nq2\td2\t1\n")
        with pytest.raises(InputError, match=r"qrels\.tsv:1"):
            read_qrels(path)
    path.write_text("q1\td1\t1.0\nq2\td2\t2\n")
    assert read_qrels(path) == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    path.write_text("q1\td1\t0.5\n")
    with pytest.raises(InputError, match="whole number"):
        read_qrels(path)
    path.write_text("qid\tdocid\trelevance\nq1\td1\t1\n")
    assert read_qrels(path) == {"q1": {"d1": 1}}
    path.write_text("one two\n")
    with pytest.raises(InputError, match=r"qrels\.tsv:1 is no judgement"):
        read_qrels(path)
    path.write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(InputError, match="holds no judgement"):
        read_qrels(path)
    problems = BadRows()
    path.write_text("q 0 d 1\nq 0 d 2\n")
    assert read_qrels(path, problems) == {"q": {"d": 2}}
    assert problems.counts == {JUDGED_TWICE: 1}


def test_docstrings_become_passages_and_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "It has two arguments, both of them lengths, and " + "gives their product in square units. " * 4
    rows = [
        SourceDocument(f"Return the area of a rectangle.\n\n{body}", "shapes", "shapes.py:area"),
        SourceDocument(f"Return the area of a rectangle.\n\n{body} And more.", "shapes", "shapes.py:area_again"),
        SourceDocument(f"Return the area of a square.\n\n{body}", "shapes", "shapes.py:same_body"),
        SourceDocument(f"Set the area of a rectangle.\n\n{body} Or else.", "shapes", "shapes.py:area"),
        SourceDocument("Short.\n\n" + body + "!", "shapes", "shapes.py:short_summary"),
        SourceDocument("Return the area of a circle.\n\nToo short.", "shapes", "shapes.py:short_body"),
    ]
    monkeypatch.setattr(docstrings, "read_rows", lambda *_, **__: iter(rows))
    collection = DocstringCollection()
    assert [document.id for document in collection.documents()] == [
        "shapes.py:area",
        "shapes.py:area_again",
        "shapes.py:area~2",
    ]
    assert list(collection.queries().values()) == ["Return the area of a rectangle", "Set the area of a rectangle"]
    judged = [collection.qrels(split) for split in collection.splits]
    assert sum(len(names) for qrels in judged for names in qrels.values()) == 3
    assert summary_and_body("One\n  line here.\n\n\nBody.") == ("One line here", "Body.")


def test_ir_datasets_is_optional() -> None:
    with pytest.raises(InputError, match="ir_datasets"):
        open_collection("ir_datasets:no/such/collection")

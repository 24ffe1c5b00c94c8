"""`lavra index`, `lavra search` and `lavra search evaluate` as they are typed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.cli import index as index_command
from lavra.cli import search as search_command
from lavra.core.disk.locks import exclusive
from lavra.core.errors import InputError
from lavra.data.examples.labelled import LabelColumns
from lavra.generation.classifying import Classification
from lavra.search.experiment.files import table
from lavra.workflows.search.pair_reranker import PairReranker
from lavra.workflows.search.search import evaluate_search, search_index
from recommended import recommended
from word_vectors import WordEncoder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.chdir(tmp_path)
    texts = [
        f"O rio número {number} corre para o mar e as pessoas que moram ali não sabem quando isso foi escrito, mas "
        f"também dizem que ele já era assim no tempo da avó de alguém chamado nome{number}."
        for number in range(12)
    ]
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{number}", "title": f"Rio {number}", "text": text} for number, text in enumerate(texts)]
    (beir / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"_id": f"q{number}", "text": f"sinónimo{number} rio"} for number in range(12)]
    (beir / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (beir / "qrels" / "test.tsv").write_text("".join(f"q{number}\td{number}\t1\n" for number in range(8)))
    (beir / "qrels" / "train.tsv").write_text("".join(f"q{number}\td{number}\t1\n" for number in range(12)))
    made = [
        {"id": f"d{number}", "predicted_queries": [f"onde está o sinónimo{number}"], "scores": [0.5]}
        for number in range(12)
    ]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return tmp_path


def test_index_search_and_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index_command.main(["beir", "--expansions", "e.jsonl", "--export", "x.db", "--export-format", "sqlite"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("search-index: 12 documents (12 added, 0 replaced, 0 deleted, 0 unchanged)")
    assert "language: Portuguese" in shown.err
    assert (folder / "x.db").exists()
    assert search_command.main(["sinonimo3", "rio"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(" 1. Rio 3  (d3, ")
    assert "    generated query: onde está o **sinónimo3**" in lines
    assert lines[1].startswith("    words: rank 1, score ")
    assert max(map(len, lines)) <= 80
    assert search_command.main(["sinónimo3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["id"] for hit in found["hits"]] == ["d3"]
    assert search_command.main(["inexistente"]) == 0
    assert capsys.readouterr().out == "nothing found\n"


def test_an_index_is_brought_up_to_date(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index_command.main(["beir", "--json"])
    assert json.loads(capsys.readouterr().out)["added"] == 12
    lines = (folder / "beir" / "corpus.jsonl").read_text().splitlines(keepends=True)
    (folder / "beir" / "corpus.jsonl").write_text("".join(lines[1:]))
    index_command.main(["beir", "--json", "--add"])
    assert json.loads(capsys.readouterr().out)["deleted"] == 0
    index_command.main(["beir", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["deleted"], report["unchanged"], report["documents"]) == (1, 11, 11)
    with pytest.raises(InputError, match="was made with --language pt, not en"):
        index_command.main(["beir", "--language", "en"])
    index_command.main(["beir", "--language", "en", "--force"])
    assert "use --language pt" in capsys.readouterr().err


def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "beir", "--expansions", "e.jsonl", "--tune-on", "train", "--oracle", "--out", "found"]
    assert search_command.main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("beir test: 12 documents, 8 queries")
    assert "human questions" in shown
    written = {path.name for path in (folder / "found").iterdir()}
    assert written == {"index", "experiment.json", "experiment.txt", "differences.tsv", "experiment.svg", "shares.svg"}
    read = json.loads((folder / "found" / "experiment.json").read_text())
    assert read["systems"][1]["MRR@10"]["value"] == 1.0
    assert read["systems"][0]["tuning"]["queries"] == 4
    with pytest.raises(InputError, match="holds an experiment already"):
        search_command.main(words)
    with pytest.raises(InputError, match="every query of the split 'test'"):
        search_command.main(["evaluate", "beir", "--split", "train", "--tune-on", "test", "--out", "other"])


def test_evaluate_with_separate_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "beir" / "qrels" / "test.tsv").rename(folder / "qrels.tsv")
    with (folder / "qrels.tsv").open("a") as handle:
        handle.write("q1\tnowhere\t1\n")
    (folder / "beir" / "queries.jsonl").rename(folder / "queries.jsonl")
    words = ["evaluate", "beir/corpus.jsonl", "--queries", "queries.jsonl", "--qrels", "qrels.tsv", "--json"]
    assert search_command.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["queries"] == 8
    assert report["warnings"] == [
        "warning: 1 judged document is not in the corpus and counts as never found ('nowhere')"
    ]


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    with pytest.raises(InputError, match="is no search index"):
        search_command.main(["pergunta"])
    with pytest.raises(InputError, match="has no judgements"):
        search_command.main(["evaluate", "beir/corpus.jsonl"])
    (folder / "mine").mkdir()
    (folder / "mine" / "experiment.txt").write_text("mine")
    with pytest.raises(InputError, match="is no folder that lavra made"):
        search_command.main(["evaluate", "beir", "--out", "mine", "--force"])
    with pytest.raises(InputError, match="exists and is no search index"):
        index_command.main(["beir", "--out", "beir"])
    (folder / "blank.jsonl").write_text('{"_id": "1", "text": " "}\n')
    with pytest.raises(InputError, match="no document with text"):
        index_command.main(["blank.jsonl", "--language", "pt", "--out", "blank"])
    assert not (folder / "blank").exists()
    (folder / "koi.jsonl").write_bytes('{"_id": "1", "text": "Все счастливые семьи"}\n'.encode("koi8-r"))
    with pytest.raises(InputError, match=r"no document with text\n.*broken UTF-8 \(koi\.jsonl:1") as caught:
        index_command.main(["koi.jsonl", "--language", "pt", "--out", "blank"])
    assert "iconv" in caught.value.remedy
    (folder / "nameless.jsonl").write_text('{"text": "um rio"}\n')
    with pytest.raises(
        InputError, match=r"no document with text\n.*document without an id \(nameless\.jsonl:1"
    ) as caught:
        index_command.main(["nameless.jsonl", "--out", "blank"])
    assert "'_id'" in caught.value.remedy
    with pytest.raises(InputError, match=r"nowhere\.jsonl cannot be read"):
        index_command.main(["beir", "--language", "pt", "--out", "fresh", "--expansions", "nowhere.jsonl"])
    (folder / "numbers.jsonl").write_text('{"_id": "1", "text": "1 2 3"}\n')
    with pytest.raises(InputError, match="say --language"):
        index_command.main(["numbers.jsonl"])


def test_a_query_without_an_indexed_word_says_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index_command.main(["beir", "--language", "pt"])
    for query, reason in (
        ("quem é você", "leaves out: quem, é, você"),
        ("xyzzy", "no document has"),
        ("?!", "no word"),
    ):
        assert search_command.main([query]) == 0
        shown = capsys.readouterr()
        assert "nothing found" in shown.out
        assert reason in shown.err
    with pytest.raises(InputError, match="one or more"):
        search_command.main(["rio", "--top-k", "0"])


def test_judged_queries_without_an_indexed_word_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "q.tsv").write_text("q0\tquem é você\nq1\trio\n")
    (folder / "j.tsv").write_text("q0\td0\t1\nq1\td1\t1\n")
    search_command.main(["evaluate", "beir", "--queries", "q.tsv", "--qrels", "j.tsv", "--language", "pt", "--json"])
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert [line for line in warnings if "1 judged query has no word" in line and "q0" in line]


def test_a_forced_index_that_fails_keeps_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index_command.main(["beir", "--language", "pt"])
    before = search_index("rio 3")
    assert before
    (folder / ".search-index.building-dead").mkdir()

    def fail(*_: object, **__: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr("lavra.search.index.update.build_snapshot", fail)
        with pytest.raises(OSError, match="full"):
            index_command.main(["beir", "--language", "pt", "--force"])
    assert search_index("rio 3") == before
    index_command.main(["beir", "--language", "en", "--force"])
    assert search_index("rio 3")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_two_indexers_at_once_are_refused_by_name_and_a_search_meanwhile_is_not_warned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index_command.main(["beir", "--language", "pt"])
    with exclusive(folder / ".search-index.index.lock", "x", remove=True):
        for more in ([], ["--force"]):
            with pytest.raises(InputError, match=r"search-index is being indexed by process"):
                index_command.main(["beir", "--language", "pt", *more])
    manifest = json.loads((folder / "search-index" / "index.json").read_text())
    manifest["searchable"] -= 1
    (folder / "search-index" / "index.json").write_text(json.dumps(manifest | {"segments": manifest["segments"] * 2}))
    capsys.readouterr()
    with exclusive(folder / "search-index" / "lock", "x"):
        search_index("xyzzy")
        assert "is being updated by process" in capsys.readouterr().err
    search_index("xyzzy")
    assert "was interrupted; run `lavra index` again" in capsys.readouterr().err


def test_the_table_of_an_experiment_fits_the_terminal(folder: Path) -> None:
    result = evaluate_search("beir", language="pt", expansions="e.jsonl")
    assert max(map(len, table(result))) > 80
    assert max(map(len, table(result, 80))) <= 80
    text = "\n".join(table(result, 80))
    assert all(name in text for name in result.systems[0].estimates)


def test_the_commands_that_are_recommended_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index_command.main(["beir", "--language", "pt", "--out", "my index", "--force"]) == 0
    search, again = recommended(capsys.readouterr().err)
    assert search == ["search", "…", "--index", "my index"]
    assert again == ["index", "beir", "--language", "pt", "--out", "my index"]
    assert search_command.main(["rio", *search[2:]]) == 0
    capsys.readouterr()
    assert index_command.main(again[1:]) == 0
    assert "12 documents (0 added, 0 replaced, 0 deleted, 12 unchanged)" in capsys.readouterr().out
    assert search_command.main(["evaluate", "beir", "--out", "found"]) == 0
    shown = capsys.readouterr()
    assert "result: found (experiment.txt" in shown.err
    (search,) = recommended(shown.err)
    assert search_command.main(["rio", *search[2:]]) == 0


def test_one_document_is_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "one.jsonl").write_text(json.dumps({"_id": "1", "text": "Um rio corre para o mar."}) + "\n")
    assert index_command.main(["one.jsonl", "--language", "pt"]) == 0
    assert capsys.readouterr().out.startswith("search-index: 1 document (1 added")


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> WordEncoder:
    """The encoder that every location opens."""
    encoder = WordEncoder({"rivulet": "rio"})
    monkeypatch.setattr("lavra.workflows.search.dense.open_encoder", lambda *_: encoder)
    return encoder


def test_an_index_with_vectors_is_searched_by_both_sides(
    folder: Path, words: WordEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert index_command.main(["beir", "--language", "pt", "--dense", "words"]) == 0
    assert "12 vectors of 32 (float16, exact; 12 made now)" in capsys.readouterr().out
    assert search_command.main(["rivulet", "nome3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["hits"]
    assert len(found) == 10
    assert found[0]["id"] == "d3"
    assert found[0]["lexical_rank"] == 1
    assert found[0]["dense_rank"] >= 1
    assert [hit["lexical_rank"] for hit in found[1:]] == [None] * 9
    assert search_command.main(["rivulet", "nome3", "--mode", "lexical"]) == 0
    assert capsys.readouterr().out.count("words: rank") == 1
    assert search_command.main(["rivulet", "--mode", "dense", "--top-k", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("vectors: rank") == 2
    assert max(map(len, shown.splitlines())) <= 80
    assert search_command.main(["rio", "--dense-weight", "0.3", "--top-k", "1"]) == 0


def test_an_update_keeps_the_vectors_and_none_removes_them(
    folder: Path, words: WordEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    index_command.main(["beir", "--language", "pt", "--dense", "words", "--dense.store", "int8", "--json"])
    first = json.loads(capsys.readouterr().out)
    assert (first["vectors"], first["embedded"], first["dense"]["store"]) == (12, 12, "int8")
    words.encoded.clear()
    with (folder / "beir" / "corpus.jsonl").open("a") as handle:
        handle.write(json.dumps({"_id": "new", "title": "", "text": "Um monte que ninguém conhece."}) + "\n")
    index_command.main(["beir", "--language", "pt", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["added"], report["vectors"], report["embedded"]) == (1, 13, 1)
    assert [text for _, text in words.encoded] == ["Um monte que ninguém conhece."]
    with pytest.raises(InputError, match="stored as int8, not as binary"):
        index_command.main(["beir", "--language", "pt", "--dense.store", "binary"])
    index_command.main(["beir", "--language", "pt", "--dense", "none", "--json"])
    assert json.loads(capsys.readouterr().out)["dense"] is None
    with pytest.raises(InputError, match="name their encoder"):
        index_command.main(["beir", "--language", "pt", "--dense.store", "int8"])
    with pytest.raises(InputError, match="has no vectors, and --mode hybrid"):
        search_command.main(["rio", "--mode", "hybrid"])
    with pytest.raises(InputError, match="--dense-weight has no part"):
        search_command.main(["rio", "--dense-weight", "0.5"])


def test_another_encoder_is_refused_by_name_before_anything_is_read(
    folder: Path, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_command.main(["beir", "--language", "pt", "--dense", "words"])
    words.fingerprint = "others"
    for command, line in (
        (index_command, ["beir", "--language", "pt", "--dense", "another"]),
        (search_command, ["rio"]),
        (search_command, ["rio", "--dense", "another"]),
    ):
        with pytest.raises(InputError, match=r"are those of the model words \(words\), not of .* \(others\)"):
            command.main(line)
    index_command.main(["beir", "--language", "pt", "--dense", "another", "--force"])
    assert search_command.main(["rio"]) == 0

    def gone(*_: object) -> None:
        raise InputError("nothing there", "look elsewhere")

    monkeypatch.setattr("lavra.workflows.search.dense.open_encoder", gone)
    with pytest.raises(InputError, match=r"(?s)cannot be opened: nothing there.*--mode lexical"):
        search_command.main(["rio"])
    assert search_command.main(["rio", "--mode", "lexical"]) == 0


def test_vectors_are_measured_beside_the_words(
    folder: Path, words: WordEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", "beir", "--language", "pt", "--expansions", "e.jsonl", "--dense", "words", "--out", "found"]
    assert search_command.main([*line, "--tune-on", "train"]) == 0
    shown = capsys.readouterr().out
    for name in ("dense ", "documents, fused with dense ", "documents + queries, fused with dense by weight"):
        assert any(row.startswith(name) for row in shown.splitlines())
    read = json.loads((folder / "found" / "experiment.json").read_text())
    assert len({one["system"] for one in read["comparisons"]}) == len(read["systems"]) - 1
    words.fingerprint = "others"
    assert search_command.main([*line, "--force"]) == 0  # the vectors of the experiment before are not mixed in
    assert search_command.main(["rio", "--index", "found/index"]) == 0


def test_a_run_on_pairs_ranks_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pairs:
        task, facts = SimpleNamespace(kind="classes"), {"classes": ["0", "1"]}
        reader = LabelColumns("text1", ("label",), second="text2", may_lack_labels=True)

        def predict(self, rows, bad_rows):
            for number, row in enumerate(rows):
                share = float("número 7 " in row.completion)
                yield number, Classification("", str(int(share)), {"0": 1 - share, "1": share})

    monkeypatch.setattr("lavra.workflows.labels.pair_model.labeller_at", lambda *_: Pairs())
    index_command.main(["beir", "--language", "pt"])
    capsys.readouterr()
    assert search_command.main(["rio", "--rerank", "runs/pairs", "--json", "--top-k", "2"]) == 0
    found = json.loads(capsys.readouterr().out)["hits"]
    assert found[0]["id"] == "d7"
    assert [hit["rerank_score"] for hit in found] == [1.0, 0.0]
    for facts, values in (
        ({"classes": ["0", "1", "2"]}, {"0": 0.0, "1": 1.0, "2": 2.0}),
        ({"classes": ["no", "yes"]}, {"yes": 1.0}),
        ({"classes": ["contradiction", "neutral", "entailment"]}, {"entailment": 1.0}),
    ):
        monkeypatch.setattr(Pairs, "facts", facts)
        assert PairReranker("runs/pairs").model.values == values
    monkeypatch.setattr(Pairs, "facts", {"classes": ["sport", "music"]})
    with pytest.raises(InputError, match=r"none of the classes of runs/pairs .*\(sport, music\)"):
        PairReranker("runs/pairs")
    monkeypatch.setattr(Pairs, "task", SimpleNamespace(kind="values"))
    assert PairReranker("runs/pairs").model.values is None
    monkeypatch.setattr(Pairs, "reader", LabelColumns("text", ("label",)))
    with pytest.raises(InputError, match="reads single texts"):
        PairReranker("runs/pairs")

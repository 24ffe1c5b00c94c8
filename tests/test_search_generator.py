"""Training a query generator, writing with it, and what guards a person from using a wrong one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("sacrebleu")

from tests.byte_level import ByteTokenizer, lively_decoder

from lavra.cli import doc2query as doc2query_command
from lavra.cli import expand as expand_command
from lavra.cli import index as index_command
from lavra.cli import search as search_command
from lavra.core.errors import InputError
from lavra.core.progress import set_quiet
from lavra.data.readers.rows import BadRows
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.search.expansion.compatibility import check_vocabulary, generator_language_warning, unwritable_words
from lavra.search.expansion.prompts import BARE, QueryPrompt, prompt_of
from lavra.search.expansion.query_generator import ModelQueryGenerator, Sampling, clean_query
from lavra.search.expansion.scorers import LikelihoodScorer
from lavra.search.expansion.training_rows import Pair, example_row, is_validation, read_pairs, training_passages
from recommended import recommended

RIVERS = ["Douro", "Tejo", "Mondego", "Sado", "Minho", "Guadiana", "Vouga", "Lima", "Ave", "Zêzere"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def write_collection(folder: Path) -> Path:
    """120 passages about rivers with two questions each; train and test judgements."""
    corpus, queries, train, test = [], [], ["query-id\tcorpus-id\tscore"], ["query-id\tcorpus-id\tscore"]
    for number in range(120):
        river = RIVERS[number % 10]
        text = (
            f"O rio {river} número {number} não é só um rio: ele passa por {number + 3} cidades, e também por aldeias."
        )
        corpus.append({"_id": f"d{number}", "title": "", "text": text})
        for kind, question in enumerate((f"onde passa o {river} {number}?", f"quantas cidades tem o {river}?")):
            queries.append({"_id": f"q{number}-{kind}", "text": question})
            (test if number % 5 == 0 else train).append(f"q{number}-{kind}\td{number}\t1")
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels" / "train.tsv").write_text("\n".join(train) + "\n")
    (folder / "qrels" / "test.tsv").write_text("\n".join(test) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A collection, a generator trained on it for a few steps, and what the command printed."""
    set_quiet(True)
    home = tmp_path_factory.mktemp("generator")
    collection = write_collection(home / "beir")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        printed: list[str] = []
        patch.setattr("lavra.cli.doc2query.print_json", lambda value: printed.append(json.dumps(value)))
        words = ["train", str(collection), "--steps", "4", "--out", str(home / "run"), "--context", "128", "--quiet"]
        assert doc2query_command.main([*words, "--device", "cpu", "--no-check", "--json"]) == 0
    return collection, home / "run", json.loads(printed[0])


def test_training_measures_the_generator_on_documents_set_apart(trained: tuple[Path, Path, dict[str, Any]]) -> None:
    collection, run, result = trained
    assert result["loss"] > 0
    assert set(result["BLEU"]) == {"value", "low", "high"}
    assert {"ROUGE-1", "ROUGE-2", "ROUGE-L", "validation_documents"} <= set(result)
    example = result["examples"][0]
    assert example["people"]
    assert len(example["sampled"]) == 3
    pairs = (run.parent / "run-pairs.jsonl").read_text()
    assert example["passage"] not in pairs
    held = [f"d{number}" for number in range(120) if is_validation(f"d{number}", 0.03)]
    assert all(f"número {name[1:]} " not in pairs for name in held)
    prompt = prompt_of(str(run), BARE)
    assert (prompt.language, prompt.trained_on) == ("pt", str(collection))
    assert prompt_of(str(run / "model"), BARE) == prompt
    assert json.loads((run / "doc2query-validation.json").read_text())["loss"] == result["loss"]


def test_from_documents_to_the_measured_index(
    trained: tuple[Path, Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    collection, run, _ = trained
    monkeypatch.chdir(tmp_path)
    words = [str(collection), "--model", str(run), "--queries", "2", "--device", "cpu", "--score-with", "model"]
    assert expand_command.main([*words, "--out", "e.jsonl", "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert "forecast: 120 documents" in shown.err
    assert (report["documents"], report["share_read"]) == (120, 1.0)
    assert report["forecast"]["documents"] == 120
    assert report["written"] == report["scored"] == report["chunks"]
    first = (tmp_path / "e.jsonl").read_text()
    assert expand_command.main([*words, "--out", "e.jsonl"]) == 0
    told = capsys.readouterr()
    assert " 0 expanded now" in told.out
    index, measure = recommended(told.err)
    assert index == ["index", str(collection), "--expansions", "e.jsonl"]
    assert measure == ["search", "evaluate", str(collection), "--expansions", "e.jsonl"]
    assert (tmp_path / "e.jsonl").read_text() == first
    with pytest.raises(InputError, match="made with another model or other options"):
        expand_command.main([*words, "--out", "e.jsonl", "--seed", "1"])
    assert index_command.main([str(collection), "--expansions", "e.jsonl"]) == 0
    capsys.readouterr()
    assert search_command.main(["evaluate", str(collection), "--expansions", "e.jsonl", "--out", "x"]) == 0
    table = capsys.readouterr().out
    assert "documents + best 30% of queries" in table
    assert "the generator read 100% of the text" in table
    assert (tmp_path / "x" / "shares.svg").read_text().startswith("<svg")


def test_only_the_changed_document_is_written_again(
    trained: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collection, run, _ = trained
    corpus = tmp_path / "corpus.jsonl"
    lines = (collection / "corpus.jsonl").read_text().splitlines(keepends=True)[:30]
    corpus.write_text("".join(lines))
    words = [str(corpus), "--model", str(run), "--queries", "1", "--device", "cpu", "--out", str(tmp_path / "e.jsonl")]
    assert expand_command.main([*words, "--json"]) == 0
    capsys.readouterr()
    corpus.write_text("".join(lines[:-1]) + '{"_id": "d29", "text": "Um texto novo sobre outra coisa."}\n')
    assert expand_command.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 1


def test_a_corpus_in_another_language_is_told(
    trained: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run, _ = trained
    corpus = tmp_path / "english.jsonl"
    text = "The quick brown fox and the dog were over there, which is what they would have wanted with us."
    corpus.write_text("".join(json.dumps({"_id": str(n), "text": f"{text} {n}"}) + "\n" for n in range(12)))
    words = ["--model", str(run), "--queries", "1", "--device", "cpu", "--out", str(tmp_path / "e.jsonl")]
    assert expand_command.main([str(corpus), *words]) == 0
    assert "learned from Portuguese passages" in capsys.readouterr().err
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"_id": "1", "text": "  "}\n')
    with pytest.raises(InputError, match="no document with text"):
        expand_command.main([str(empty), *words[:-1], str(tmp_path / "other.jsonl")])
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text('{"_id": "1", "text": ""}\n{"_id": "2", "text": "A fox."}\n')
    assert expand_command.main([str(mixed), *words[:-1], str(tmp_path / "mixed-e.jsonl"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["documents"] == 1
    assert report["warnings"][-1].startswith("warning: 1 × empty document (mixed.jsonl:1")


def english_tokenizer() -> Tokenizer:
    """A tokenizer of plain letters, with an unknown token for all others, as English T5 has."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?é"
    names = ["<unk>", "</s>", "▁", *letters]
    inner = Library(models.BPE({name: number for number, name in enumerate(names)}, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["</s>"])
    return Tokenizer(inner, "</s>")


def test_a_tokenizer_without_the_letters_is_refused() -> None:
    tokenizer = english_tokenizer()
    share, words = unwritable_words(tokenizer, ["O coração não é pão."])
    assert (share, set(words)) == (0.6, {"coração", "não", "pão"})
    with pytest.raises(InputError, match=r"cannot write 60.0% of the corpus's words: .*'não'.*"):
        check_vocabulary(tokenizer, ["O coração não é pão."])
    warning = check_vocabulary(tokenizer, ["plain words of all kinds " * 20, "não"])
    assert warning.startswith("warning: the model's tokenizer cannot write 1.0% of the corpus's words: 'não'")
    assert check_vocabulary(tokenizer, ["plain words alone"]) == ""


def test_a_generator_of_unknown_language_is_not_complained_about() -> None:
    texts = ["Os rios correm para o mar e as crianças não sabem por quê nem quando isso também foi dito. " * 5]
    assert generator_language_warning(texts, "") == ""
    assert generator_language_warning(texts, "pt") == ""
    assert "the documents look Portuguese" in generator_language_warning(texts, "en")


def test_rows_hold_every_query_once_after_a_passage_that_can_be_read() -> None:
    pairs = [Pair("a", "A short passage.", f"query {number}") for number in range(11)]
    pairs += [Pair("a", "A short passage.", "query  3"), Pair("a", "A short passage.", " ")]
    long = " ".join(f"Sentence number{n} about topic{n}." for n in range(120))
    pairs += [Pair("b", long, "what of topic99?"), Pair("b", long, "what of topic2?")]
    asked = list(training_passages(pairs))
    assert [one.document for one in asked] == ["a", "b", "b"]
    assert len(asked[0].queries) == 11
    assert "topic2." in asked[1].passage
    assert "topic99." in asked[2].passage
    assert asked[2].queries == ("what of topic99?",)
    prompt = QueryPrompt()
    rows = list(example_row(asked[0], prompt, whole=False, seed=0))
    assert [row["prompt"] for row in rows] == ["A short passage.\nQuery:"] * 2
    learned = "\n".join(row["completion"].replace("\nQuery:", "\n") for row in rows)
    assert sorted(learned.split("\n")) == sorted(f" query {number}" for number in range(11))
    assert rows == list(example_row(asked[0], prompt, whole=False, seed=0))
    assert rows != list(example_row(asked[0], prompt, whole=False, seed=1))
    (whole,) = example_row(asked[1], prompt, whole=True, seed=0)
    assert whole == {"prompt": "", "completion": f"{asked[1].passage}\nQuery: what of topic2?"}
    (bare, *_) = example_row(asked[1], BARE, whole=False, seed=0)
    assert bare == {"prompt": asked[1].passage, "completion": "what of topic2?"}


def test_pairs_come_from_triples_and_json_lines_too(tmp_path: Path) -> None:
    triples = tmp_path / "triples.tsv"
    triples.write_text("what is a\tA is a letter.\tB is one.\nwhat is b\tB is one.\tA is a letter.\n")
    assert [pair.query for pair in read_pairs(str(triples), "train", BadRows())] == ["what is a", "what is b"]
    lines = tmp_path / "pairs.jsonl"
    lines.write_text('{"passage": "A is a letter.", "query": "what is a"}\n')
    assert list(read_pairs(str(lines), "train", BadRows())) == [Pair("A is a letter.", "A is a letter.", "what is a")]
    lines.write_text('{"passage": "A is a letter."}\n')
    with pytest.raises(InputError, match=r"pairs.jsonl:1: line without a passage and a query"):
        list(read_pairs(str(lines), "train", BadRows("error")))


def test_the_writer_reads_whole_passages_and_does_not_depend_on_grouping() -> None:
    model: Any = lively_decoder(context=64)
    tokenizer: Any = ByteTokenizer()
    writer = ModelQueryGenerator(model, tokenizer, QueryPrompt(query_tokens=8), Sampling(top_k=5))
    assert 20 < writer.room < 64
    passages = ["a passage", "another one, longer"[: writer.room], "x"]
    together = writer.write(passages, 3, 1)
    assert [len(some) for some in together] == [3, 3, 3]
    assert [writer.write([one], 3, 1)[0] for one in passages] == together
    assert writer.write(passages, 3, 2) != together
    assert writer.write(passages, 1, 0) == writer.write(passages, 1, 5)  # one query is the likeliest
    other = ModelQueryGenerator(lively_decoder(1, context=64), tokenizer, QueryPrompt(), Sampling())  # pyright: ignore[reportArgumentType]
    assert writer.fingerprint != other.fingerprint
    same = ModelQueryGenerator(model, tokenizer, QueryPrompt(query_tokens=8), Sampling(top_k=5))
    assert writer.fingerprint == same.fingerprint
    with pytest.raises(InputError, match="too few for a passage and a query"):
        ModelQueryGenerator(lively_decoder(context=16), tokenizer, QueryPrompt())  # pyright: ignore[reportArgumentType]
    assert clean_query(" a\n b ") == "a b"


def test_the_generators_own_score_is_the_mean_log_probability() -> None:
    model: Any = lively_decoder(context=64)
    tokenizer: Any = ByteTokenizer()
    scorer = LikelihoodScorer(model, tokenizer, QueryPrompt())
    chunks, queries = ["one text", "another text"], [["who", ""], ["where", "why then"]]
    scores = scorer.score(chunks, queries)
    assert [len(some) for some in scores] == [2, 2]
    assert scores[0][1] < -1e30
    tokens = [len(tokenizer.encode(f" {query}")) for query in ("who", "where", "why then")]
    total = sum(value * count for value, count in zip([scores[0][0], *scores[1]], tokens, strict=True))
    assert scorer.loss(chunks, queries) == pytest.approx(-total / sum(tokens))

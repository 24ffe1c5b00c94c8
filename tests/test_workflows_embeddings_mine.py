"""`lavra mine`: documents or pairs become rows to train on, also after a kill, and a reranker or an encoder learns."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lavra
from lavra.cli import index as index_command
from lavra.cli import mine as mine_command
from lavra.cli import search as search_command
from lavra.config.mining import MineConfig
from lavra.core.errors import InputError, Interrupted
from lavra.workflows.embeddings import generated, mined_rows
from lavra.workflows.embeddings import mine as workflow
from lavra.workflows.embeddings.generated import EMPTY, TWICE
from lavra.workflows.embeddings.mine import mine
from lavra.workflows.embeddings.mined_rows import INCONSISTENT, UNKNOWN_MARGIN
from lavra.workflows.embeddings.pair_scores import COSINE_SCALE, EncoderTeacher, open_teacher
from little_tokenizers import byte_level
from test_tasks_embedding import TINY, write
from word_vectors import WordEncoder

PASSAGES = [
    f"The {thing} of {city} is old, and people come from far away to see it in summer."
    for city in ("Lisbon", "Porto", "Braga", "Faro")
    for thing in ("bridge", "tower", "house", "gate")
]


class Writer:
    """Asks for the second and the fourth word of a passage; the second query is the first again, the third empty.

    Args:
        killed_after: Number of calls after which the process kills itself; None for never.
    """

    room, tokenizer, fingerprint = 400, byte_level(), "writer"

    def __init__(self, killed_after: int | None = None) -> None:
        self.calls, self._killed_after = 0, killed_after

    def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
        self.calls += 1
        if self.calls == self._killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        words = [passage.split() for passage in passages]
        return [[f"which {one[1]} has {one[3]}?"] * (count - 1) + [""] for one in words]


class Counting:
    """A teacher that counts how many words of the query the passage has; of one passage it knows nothing."""

    fingerprint = "counting"

    def __init__(self, killed_after: int | None = None) -> None:
        self.pairs, self._killed_after = 0, killed_after

    def raw_scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        self.pairs += len(pairs)
        if self._killed_after is not None and self.pairs > self._killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([np.nan if "gate of Faro" in passage else shared(query, passage) for query, passage in pairs])


def shared(query: str, passage: str) -> float:
    return float(sum(word.strip("?") in passage for word in query.split()))


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Put small stand-ins in the place of generator, encoder and teacher."""
    found = SimpleNamespace(writer=Writer(), encoder=WordEncoder(), teacher=Counting())
    prompt = SimpleNamespace(language="en")
    monkeypatch.setattr(
        generated, "open_query_generator", lambda _: SimpleNamespace(writer=found.writer, prompt=prompt)
    )
    monkeypatch.setattr(workflow, "open_encoder", lambda *_, **__: found.encoder)
    monkeypatch.setattr(mined_rows, "open_teacher", lambda *_: found.teacher)
    return found


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write(tmp_path / "documents.jsonl", [{"text": text} for text in PASSAGES])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def asked(documents: Path, out: Path, **options: Any) -> MineConfig:
    return MineConfig(data=(str(documents),), out=str(out), generator="g", **options)


def test_margins_are_the_differences_of_the_teachers_scores(
    models: SimpleNamespace, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpl.jsonl"
    line = [str(documents), "--generator", "g", "--model", "m", "--teacher", "t", "--negatives", "2", "--out", str(out)]
    assert mine_command.main([*line, "--json"]) == 0
    report, rows = json.loads(capsys.readouterr().out), rows_of(out)
    assert report["queries"] == len(PASSAGES)
    assert report["queries_left_out"] == {EMPTY: len(PASSAGES), TWICE: len(PASSAGES)}
    assert report["left_out"][UNKNOWN_MARGIN] > 0
    assert report["rows"] == len(rows) == report["negatives"] == 2 * len(PASSAGES) - report["left_out"][UNKNOWN_MARGIN]
    for row in rows:
        assert row["negative"] != row["positive"]
        assert row["margin"] == shared(row["query"], row["positive"]) - shared(row["query"], row["negative"])
    margins = [row["margin"] for row in rows]
    assert report["margins"]["mean"] == pytest.approx(np.mean(margins))
    record = json.loads((tmp_path / "gpl.jsonl.provenance.json").read_text())
    assert (record["request"]["generator"], record["rows"]) == ("g", len(rows))
    with pytest.raises(InputError, match="was made with another model or other options"):
        mine_command.main([*line, "--seed", "1"])
    assert mine_command.main([*line, "--seed", "1", "--force"]) == 0
    shown = capsys.readouterr()
    assert f"left out {len(PASSAGES)} {EMPTY}" in shown.out
    assert "--from m" in shown.err


def test_the_margins_are_learned(models: SimpleNamespace, documents: Path, tmp_path: Path) -> None:
    report = mine(asked(documents, tmp_path / "gpl.jsonl", teacher="t", most=12))
    assert report.queries == 12
    run = lavra.train(report.out, out=str(tmp_path / "run"), **{**TINY, "steps": 2, "check": False})
    assert run.plan["objective"] == "margin-mse"


@pytest.mark.parametrize("where", ["writing", "scoring"])
def test_a_killed_command_goes_on_to_the_same_bytes(
    where: str, models: SimpleNamespace, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavra.search.expansion.expand._GROUP", 4)
    monkeypatch.setattr("lavra.workflows.embeddings.pair_scores._SCORED_AT_ONCE", 8)
    options: dict[str, Any] = {"model": "m", "teacher": "t", "negatives": 2}
    mine(asked(documents, tmp_path / "whole.jsonl", **options))
    whole = models.writer.calls, len(models.encoder.encoded), models.teacher.pairs
    request = asked(documents, tmp_path / "killed.jsonl", **options)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        models.writer = Writer(killed_after=3 if where == "writing" else None)
        models.teacher = Counting(killed_after=20)
        mine(request)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (tmp_path / "killed.jsonl").exists()
    models.writer, models.encoder, models.teacher = Writer(), WordEncoder(), Counting()
    mine(request)
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    again = models.writer.calls, len(models.encoder.encoded), models.teacher.pairs
    assert again == ((whole[0] - 2, *whole[1:]) if where == "writing" else (0, 0, whole[2] - 16))


def test_a_signal_stops_between_batches_and_nothing_is_lost(
    models: SimpleNamespace, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavra.search.expansion.expand._GROUP", 4)
    request = asked(documents, tmp_path / "out.jsonl")
    write_before = models.writer.write

    def interrupted(*given: Any) -> list[list[str]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return write_before(*given)

    monkeypatch.setattr(models.writer, "write", interrupted)
    with pytest.raises(Interrupted, match="everything that was made is in") as caught:
        mine(request)
    assert caught.value.exit_code == 143
    models.writer = Writer()
    mine(request)
    assert models.writer.calls == len(PASSAGES) // 4 - 1


def test_queries_that_do_not_find_their_passage_are_left_out(
    models: SimpleNamespace, documents: Path, tmp_path: Path
) -> None:
    class Astray(Writer):
        def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
            return [["where is the tower of Porto?" if "house" in one else f"see: {one}"] for one in passages]

    models.writer = Astray()
    report = mine(asked(documents, tmp_path / "out.jsonl", model="m", queries=1, consistent=1))
    # The same question was written for each house, and finds none of them; only the tower's own text is near it.
    assert report.queries_left_out[INCONSISTENT] == 4
    assert report.queries == len(PASSAGES) - 4
    assert not [row for row in rows_of(tmp_path / "out.jsonl") if "where is" in row["query"]]


def test_pairs_get_negatives_and_keep_their_columns(models: SimpleNamespace, tmp_path: Path) -> None:
    data = [
        {"anchor": f"{one.split()[1]} {one.split()[3]}", "positive": one, "id": str(n)}
        for n, one in enumerate(PASSAGES)
    ]
    path = write(tmp_path / "pairs.jsonl", data)
    mine(MineConfig(data=(str(path),), out=str(tmp_path / "mined.jsonl"), negatives=3))
    for row, given in zip(rows_of(tmp_path / "mined.jsonl"), data, strict=True):
        assert {name: row[name] for name in given} == given
        assert given["positive"] not in row["negatives"]
    mine(MineConfig(data=(str(path),), out=str(tmp_path / "scored.jsonl"), rows="pairs", teacher="t", negatives=1))
    for row in rows_of(tmp_path / "scored.jsonl"):
        assert row["score"] == shared(row["text1"], row["text2"])
        assert row["group"] == row["text1"]


def test_impossible_requests_are_refused_before_anything_is_opened(documents: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"negatives": 9, "depth": 3}, "are not chosen among"),
        ({"margin": 1.0}, "is no share"),
        ({"by": ()}, "names nothing"),
        ({"consistent": -1}, "--consistent is -1"),
        ({"most": 3}, "--most is for documents"),
    ):
        with pytest.raises(InputError, match=message):
            mine(MineConfig(data=(str(documents),), out=str(tmp_path / "out.jsonl"), **options))
    with pytest.raises(InputError, match="single texts, and no pairs") as caught:
        mine(MineConfig(data=(str(documents),), out=str(tmp_path / "out.jsonl")))
    assert "--generator" in caught.value.remedy
    with pytest.raises(InputError, match=r"documents\.jsonl"):
        mine(MineConfig(data=(str(documents),), out=str(documents)))


def test_long_documents_become_passages_and_all_of_a_beir_folder_but_the_corpus_is_left(
    models: SimpleNamespace, tmp_path: Path
) -> None:
    models.writer.room = max(len(byte_level().encode(one)) for one in PASSAGES) + 1  # for one sentence, and not for two
    beir = tmp_path / "beir"
    beir.mkdir()
    write(beir / "corpus.jsonl", [{"_id": "1", "title": "", "text": " ".join(PASSAGES)}])
    write(beir / "queries.jsonl", [{"_id": "q", "text": "This is a question of a person?"}])
    report = mine(asked(beir, tmp_path / "out.jsonl", negatives=1))
    assert report.queries == len(PASSAGES)
    assert {row["passage"] for row in rows_of(tmp_path / "out.jsonl")} == set(PASSAGES)


def test_an_encoder_teaches_by_its_cosines() -> None:
    encoder = WordEncoder()
    (score,) = EncoderTeacher(encoder).raw_scores([("a house", "a tower")])
    assert score == pytest.approx(COSINE_SCALE * float(encoder.encode(["a house"])[0] @ encoder.encode(["a tower"])[0]))


def test_a_reranker_learns_from_generated_queries_and_ranks(
    models: SimpleNamespace, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Documents → queries → negatives → a model of pairs → `lavra search --rerank`, which also teaches an encoder."""
    monkeypatch.chdir(tmp_path)
    mined = mine(asked(documents, tmp_path / "pairs.jsonl", rows="pairs", negatives=1))
    rows = rows_of(tmp_path / "pairs.jsonl")
    assert [row["label"] for row in rows].count("relevant") == len(PASSAGES)
    assert mined.rows == len(rows) == 2 * len(PASSAGES)
    options = {name: value for name, value in TINY.items() if name != "embedding"}
    run = lavra.train(mined.out, out="reranker", **{**options, "check": False, "deliver": "last"})
    assert run.plan["task"] == "classification"
    corpus = write(tmp_path / "corpus.jsonl", [{"id": str(n), "text": text} for n, text in enumerate(PASSAGES)])
    index_command.main([str(corpus), "--language", "en"])
    capsys.readouterr()
    assert (
        search_command.main(["which", "tower", "has", "Porto", "--rerank", "reranker", "--top-k", "4", "--json"]) == 0
    )
    hits = json.loads(capsys.readouterr().out)["hits"]
    scores = [hit["rerank_score"] for hit in hits]
    assert len(hits) == 4
    assert scores == sorted(scores, reverse=True)
    teacher = open_teacher("reranker", "cpu")
    raw = teacher.raw_scores([("which tower has Porto", PASSAGES[int(hit["id"])]) for hit in hits])
    assert (1 / (1 + np.exp(-raw))).tolist() == pytest.approx(scores)  # one model, and one way to read it


def test_a_model_that_reads_no_pairs_cannot_teach(tmp_path: Path) -> None:
    rows = [{"text": f"this is the number {n} of all of them", "label": "odd" if n % 2 else "even"} for n in range(120)]
    options = {name: value for name, value in TINY.items() if name != "embedding"}
    run = lavra.train(
        write(tmp_path / "rows.jsonl", rows), out=str(tmp_path / "run"), **{**options, "check": False, "steps": 1}
    )
    with pytest.raises(InputError, match=r"cannot teach: .* reads single texts"):
        open_teacher(str(run.path), "cpu")

"""`lavra embed`: order and ids kept, nothing read twice, the same bytes after SIGKILL, other models refused by name."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

from tests.forked_processes import Ended, ForkServer
from tests.sentence_folders import sentence_folder

import lavra
from lavra.cli.main import main
from lavra.vectors.files import read_vectors
from lavra.vectors.protocols import TextEncoder
from lavra.workflows.embeddings import embed as workflow

WORDS = ["rio", "mar", "serra", "lua", "sol", "vento", "chuva", "pedra", "folha", "areia"]


def text(number: int) -> str:
    """Return the text of a row; that of row 10 is that of row 1."""
    number = 1 if number == 10 else number
    return " ".join(WORDS[(number * step) % 10] for step in range(1, 2 + number % 9))


def rows(count: int, first: int = 0) -> str:
    return "".join(
        json.dumps({"id": f"d{number}", "text": text(number), "label": "x"}) + "\n"
        for number in range(first, first + count)
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_folder(tmp_path_factory.mktemp("models") / "encoder", prompts={"query": "the value "})


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_folder(tmp_path_factory.mktemp("others") / "other", pooling="max")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "_BLOCK_TEXTS", 4)


def embed(model: Path, data: Path, out: Path, *more: str, code: int = 0) -> None:
    words = ["embed", str(model), str(data), "--out", str(out), "--precision", "fp32", *more]
    assert main(words) == code


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_ids_and_order_of_the_texts_are_kept(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(rows(11))
    embed(model, data, tmp_path / "v.npy")
    told = capsys.readouterr()
    assert "v.npy: 11 vectors of 16 dimensions; 10 texts computed in" in told.out
    assert "1 the same as an earlier text" in told.out
    assert "numpy.load" in told.err
    assert "--extend" in told.err
    found = read_vectors(tmp_path / "v.npy")
    assert list(found.ids) == [f"d{number}" for number in range(11)]
    expected = lavra.embed(str(model), [text(number) for number in range(11)], precision="fp32")
    np.testing.assert_allclose(found.matrix, expected, rtol=0, atol=1e-6)
    assert found.manifest.normalised
    assert (found.manifest.kind, found.manifest.prompt) == ("text", "")


def test_queries_get_their_prompt_and_rows_without_ids_their_place(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "some.csv"
    data.write_text("words\nrio\n\nmar\n")
    embed(model, data, tmp_path / "q.parquet", "--kind", "query", "--text-column", "words", "--dimensions", "8")
    found = read_vectors(tmp_path / "q.parquet")
    assert list(found.ids) == [f"{data}:2", f"{data}:4"]
    expected = lavra.embed(str(model), ["rio", "mar"], kind="query", dimensions=8, precision="fp32")
    np.testing.assert_allclose(found.matrix, expected, rtol=0, atol=1e-6)
    assert found.manifest.prompt == "the value "


def test_an_id_given_twice_is_counted_and_said(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(rows(3) + rows(2))
    embed(model, data, tmp_path / "v", "--json")
    told = capsys.readouterr()
    assert list(read_vectors(tmp_path / "v").ids) == ["d0", "d1", "d2"]
    assert json.loads(told.out)["warnings"] == [told.err.strip()]
    assert "2 × id given twice" in told.err


def test_what_the_cache_holds_is_not_read_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "v.npy"
    data.write_text(rows(8))
    embed(model, data, out, "--json")
    first = report(capsys)
    assert (first["computed"], first["reused"], first["added"]) == (8, 0, 8)
    embed(model, data, out, code=2)
    assert "v.npy exists already" in capsys.readouterr().err
    data.write_text(rows(9, first=2))
    embed(model, data, out, "--force", "--json")
    again = report(capsys)
    assert (again["computed"], again["reused"], again["repeated"], again["rows"]) == (2, 7, 0, 9)
    embed(model, data, tmp_path / "w.npy", "--cache", str(out) + ".cache", "--kind", "query", "--json")
    assert report(capsys)["computed"] == 9  # a query has another prompt


def test_a_file_is_extended_and_changed_texts_replaced(
    model: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "v.npy"
    data.write_text(rows(6))
    embed(model, data, out)
    data.write_text(rows(3, first=4) + json.dumps({"id": "d1", "text": "nada"}) + "\n")
    capsys.readouterr()
    embed(model, data, out, "--extend", "--json")
    done = report(capsys)
    assert (done["kept"], done["added"], done["replaced"], done["rows"]) == (2, 1, 1, 7)
    found = read_vectors(out)
    assert list(found.ids) == [f"d{number}" for number in range(7)]
    texts = [text(number) if number != 1 else "nada" for number in range(7)]
    np.testing.assert_allclose(found.matrix, lavra.embed(str(model), texts, precision="fp32"), rtol=0, atol=1e-6)
    before = out.read_bytes()
    embed(other, data, out, "--extend", code=2)
    assert f"{out} holds vectors of {model}" in (said := capsys.readouterr().err)
    assert f"{other} is another encoder" in said
    embed(model, data, out, "--extend", "--kind", "query", code=2)
    assert "give --kind text" in capsys.readouterr().err
    plain = tmp_path / "plain.txt"
    plain.write_text("rio\n")
    embed(model, plain, out, "--extend", code=2)
    assert "the data have no ids" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_an_api_encoder_is_what_benchmarks_call(model: Path) -> None:
    encoder = lavra.Encoder(str(model), precision="fp32")
    assert isinstance(encoder.inner, TextEncoder)
    queries = lavra.embed(str(model), ["rio", "mar"], kind="query", precision="fp32")
    batches = [{"text": ["rio"]}, {"text": ["mar"], "title": [""]}]
    for found in (
        encoder.encode_queries(["rio", "mar"], batch_size=32),
        encoder.encode(batches, task_metadata=None, hf_split="test", hf_subset="pt", prompt_type="query"),
    ):
        np.testing.assert_allclose(found, queries, rtol=0, atol=1e-6)
    passages = encoder.encode_corpus([{"title": "rio", "text": "mar"}, {"text": "lua"}, "sol"])
    columns = encoder.encode_corpus({"title": ["rio", "", ""], "text": ["mar", "lua", "sol"]})
    expected = encoder.encode(["rio mar", "lua", "sol"], prompt_type="document")
    np.testing.assert_allclose(passages, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(columns, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.diag(encoder.similarity(queries, queries)), 1.0, atol=1e-6)
    np.testing.assert_allclose(encoder.similarity_pairwise(queries, queries * 3), 1.0, atol=1e-6)


# Real processes that are killed.

_IMPORTS = """
import lavra.cli.main, lavra.cli.embed, lavra.workflows.embeddings.embed, transformers
import transformers.models.bert.modeling_bert
"""

_PROGRAM = """
import os, signal, sys
from lavra.cli.main import main
from lavra.vectors import cache, files
from lavra.workflows.embeddings import embed

embed._BLOCK_TEXTS = 4
place, moment = sys.argv.pop(1).split(":")
calls = 0

def dying(cls, name, after):
    plain = getattr(cls, name)
    def called(self, *given):
        global calls
        calls += 1
        if after:
            plain(self, *given)
        if calls == int(moment):
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        if not after:
            plain(self, *given)
    setattr(cls, name, called)

if place == "before-put":
    dying(cache.VectorCache, "put", False)
elif place == "after-put":
    dying(cache.VectorCache, "put", True)
elif place == "adding":
    dying(files.VectorWriter, "add", True)
elif place == "finishing":
    dying(files.VectorWriter, "finish", True)
sys.exit(main())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("forked"), _IMPORTS) as found:
        yield found


def killed(server: ForkServer, model: Path, data: Path, out: Path, moment: str, number: int = signal.SIGKILL) -> Ended:
    words = ["embed", str(model), str(data), "--out", str(out), "--quiet", "--json"]
    return server.run(_PROGRAM, [moment, *words], {"OMP_NUM_THREADS": "1", "SIGNAL": str(int(number))})


@pytest.mark.parametrize("name", ["v.npy", "v.parquet", "v"])
@pytest.mark.parametrize("moment", ["before-put:3", "after-put:2", "adding:5", "finishing:1"])
def test_a_killed_command_given_again_gives_the_same_bytes(
    server: ForkServer, model: Path, tmp_path: Path, name: str, moment: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(rows(22))
    whole, out = tmp_path / "whole" / name, tmp_path / "killed" / name
    assert killed(server, model, data, whole, "never:0").returncode == 0
    assert killed(server, model, data, out, moment).returncode == -signal.SIGKILL
    assert not out.exists()
    ended = killed(server, model, data, out, "never:0")
    assert ended.returncode == 0
    done = json.loads(ended.out.read_text())
    kept = {"before-put:3": 8, "after-put:2": 8, "adding:5": 19, "finishing:1": 21}[moment]
    assert (done["reused"], done["computed"]) == (kept, 21 - kept)
    assert _files(out) == _files(whole)


def _files(path: Path) -> dict[str, bytes]:
    """Return the files of vectors beside the cache, by their names."""
    found = [one for one in sorted(path.parent.rglob("*")) if one.is_file() and ".cache" not in one.name]
    return {str(one.relative_to(path.parent)): one.read_bytes() for one in found}


def test_a_signal_keeps_what_was_made_and_says_how_to_go_on(server: ForkServer, model: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "v.npy"
    data.write_text(rows(22))
    words = ["embed", str(model), str(data), "--out", str(out)]
    ended = server.run(_PROGRAM, ["before-put:3", *words], {"SIGNAL": str(int(signal.SIGINT))})
    assert ended.returncode == 128 + signal.SIGINT
    said = ended.errors.read_text()
    assert "the vectors of 11 texts are in" in said
    assert "give the same command to continue" in said
    assert not out.exists()

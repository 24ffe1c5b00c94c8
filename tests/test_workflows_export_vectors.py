"""Encoders exported for sentence-transformers, and distilled into static vectors: the same vectors there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

from tests.little_tokenizers import TEXTS as CORPUS
from tests.little_tokenizers import byte_level
from tests.sentence_folders import TEXTS, sentence_folder, their_vectors, tiny_bert
from tests.tiny_training import lively

from lavra.cli.main import main
from lavra.core.errors import InputError
from lavra.models import sentence_reference, vector_certificate
from lavra.models.native.store import save_decoder
from lavra.models.spec import DecoderSpec
from lavra.vectors.distilling import principal_components, sif_weights, tuned
from lavra.workflows.embeddings.open_encoder import open_encoder

SAME = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def other_program_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the certificate's other program in this process, which has paid for its imports already."""
    import subprocess

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder, request, out = command[-3:]
        sentence_reference.run(folder, Path(request), Path(out))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(vector_certificate.subprocess, "run", run)


def export(model: Path, out: Path, *more: str, form: str = "sentence-transformers", code: int = 0) -> None:
    assert main(["export", str(model), "--format", form, "--out", str(out), *more]) == code


def test_an_export_gives_the_same_vectors_in_a_fresh_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sentence_folder(tmp_path / "source", dense=8, prompts={"query": "the value ", "passage": "names "})
    export(source, tmp_path / "out", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["certificate"]["holds"]
    assert told["certificate"]["modules"] == "Transformer → Pooling → Dense → Normalize"
    assert told["certificate"]["texts"] >= 15
    assert told["certificate"]["largest_difference"] <= 1e-5
    ours = open_encoder(str(source), device="cpu", precision="fp32")
    for kind, method in (("text", "encode"), ("query", "encode_query"), ("passage", "encode_document")):
        theirs = their_vectors(tmp_path / "out", method=method)
        np.testing.assert_allclose(ours.encode(TEXTS, kind=kind), theirs, **SAME)
    again = open_encoder(str(tmp_path / "out"), device="cpu", precision="fp32")
    assert again.fingerprint == ours.fingerprint


@pytest.mark.parametrize("name", ["e5-bert", "decoder"])
def test_models_without_modules_get_them(
    tmp_path: Path, other_program_here: None, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    model = tmp_path / name
    if name == "decoder":
        spec = DecoderSpec(
            vocabulary=byte_level().vocabulary_size, width=16, depth=2, heads=2, context=48,
            norm="rmsnorm", activation="swiglu",
        )  # fmt: skip
        save_decoder(model, lively(spec))
        byte_level().save(model)
    else:
        tiny_bert(model)
    export(model, tmp_path / "out")
    told = capsys.readouterr()
    assert "certificate: the same vectors in sentence-transformers" in told.out
    assert "Transformer → Pooling → Normalize" in told.out
    assert "SentenceTransformer(" in told.err
    ours = open_encoder(str(model), device="cpu", precision="fp32")
    np.testing.assert_allclose(
        ours.encode(TEXTS, kind="query"), their_vectors(tmp_path / "out", method="encode_query"), **SAME
    )
    export(model, tmp_path / "out")  # the same request again
    assert "holds this export already" in capsys.readouterr().err


def test_what_sentence_transformers_does_not_compute_is_refused_before_anything_is_written(
    tmp_path: Path, other_program_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = DecoderSpec(
        vocabulary=byte_level().vocabulary_size, width=16, depth=2, heads=2, context=48, bigram_embedding=64
    )
    save_decoder(tmp_path / "bigrams", lively(spec))
    byte_level().save(tmp_path / "bigrams")
    export(tmp_path / "bigrams", tmp_path / "out", code=2)
    assert "bigram" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_wrong_export_is_not_kept(
    tmp_path: Path, other_program_here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lavra.workflows.export import sentence_transformers as module

    plain = module.write_pooling
    monkeypatch.setattr(module, "write_pooling", lambda place, pooling, *more, **how: plain(place, "max", *more, **how))
    export(sentence_folder(tmp_path / "source"), tmp_path / "out", code=1)
    assert "NOT the same vectors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    parts = [part for topic in CORPUS for part in topic.split("\n\n") if len(part) > 20]
    path.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts))
    return path


def test_static_vectors_are_opened_by_both_and_come_close_to_their_teacher(
    tmp_path: Path, corpus: Path, other_program_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = sentence_folder(tmp_path / "teacher", longest=64)
    export(teacher, tmp_path / "static", "--data", str(corpus), "--dimensions", "12", "--json", form="static")
    told = json.loads(capsys.readouterr().out)
    assert told["certificate"]["modules"] == "StaticEmbedding → Normalize"
    assert (told["dimensions"], told["tuned_on"]) == (12, told["texts"])
    static = open_encoder(str(tmp_path / "static"))
    assert (static.dimensions, static.longest) == (12, None)
    np.testing.assert_allclose(static.encode(TEXTS), their_vectors(tmp_path / "static"), **SAME)
    np.testing.assert_allclose(open_encoder(str(tmp_path / "static"), dimensions=5).encode(TEXTS).shape, (8, 5))
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()][:150]
    export(teacher, tmp_path / "first", "--data", str(corpus), "--dimensions", "12", "--tune", "0", form="static")
    theirs = open_encoder(str(teacher), device="cpu", precision="fp32").encode(texts)
    assert _alike(static.encode(texts), theirs) > _alike(open_encoder(str(tmp_path / "first")).encode(texts), theirs)


def _alike(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation between the cosines of all pairs."""
    above = np.triu_indices(len(one), 1)
    return float(np.corrcoef((one @ one.T)[above], (other @ other.T)[above])[0, 1])


def test_static_vectors_need_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(tiny_bert(tmp_path / "bert"), tmp_path / "out", form="static", code=2)
    assert "no text was given" in capsys.readouterr().err


def test_the_parts_of_distilling() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 6)).astype(np.float32) * np.array([5, 4, 3, 0.1, 0.1, 0.1], np.float32) + 7
    found = principal_components(vectors, 3)
    assert found.share > 0.99
    projected = found.apply(vectors)
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-4)
    assert (np.diff(projected.var(0)) < 0).all()
    np.testing.assert_allclose(principal_components(vectors, 6).share, 1.0)
    weights = sif_weights(np.array([0, 10, 1000]))
    assert weights[0] == 1.0 > weights[1] > weights[2] > 0


def test_tuning_solves_the_ridge_regression() -> None:
    random = np.random.default_rng(2)
    ids = [random.integers(0, 30, size) for size in random.integers(1, 9, 80)]
    table = random.normal(size=(30, 4)).astype(np.float32)
    targets = random.normal(size=(80, 4)).astype(np.float32)
    means = np.array([np.bincount(one, minlength=30) / len(one) for one in ids])
    expected = table + np.linalg.solve(means.T @ means + 0.5 * np.eye(30), means.T @ (targets - means @ table))
    np.testing.assert_allclose(tuned(table, ids, targets, ridge=0.5), expected, atol=2e-3)
    exact = (means @ table).astype(np.float32)
    np.testing.assert_allclose(tuned(table, ids, exact), table, atol=1e-5)  # nothing to learn


def test_a_folder_of_static_vectors_is_no_network(tmp_path: Path, corpus: Path, other_program_here: None) -> None:
    from lavra.workflows.export.sentence_transformers import export_sentence_transformers

    teacher = sentence_folder(tmp_path / "teacher")
    export(teacher, tmp_path / "static", "--data", str(corpus), "--tune", "0", "--dimensions", "4", form="static")
    with pytest.raises(InputError, match="holds static vectors, and no network"):
        export_sentence_transformers(str(tmp_path / "static"), tmp_path / "out")

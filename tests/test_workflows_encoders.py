"""An encoder of lavra's own from a text: trained, killed and resumed, measured, exported, and fine-tuned on labels."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lavra
from finished_runs import topics_of_python, weights
from labelled_reviews import reviews, write_rows
from lavra.config.training import ModelConfig, ObjectiveConfig, SetupConfig, TextConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.data.tokenizers.for_encoders import for_encoder
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.presets import as_encoder
from lavra.models.spec import DecoderSpec
from lavra.planning.machine.flops import training_flops_per_token
from lavra.reports.run_summary import summary
from lavra.tasks.table import kind_from_scratch
from lavra.training.fault_injection import injected
from lavra.workflows.classify import classify
from lavra.workflows.datasets.preparation import prepare_text
from lavra.workflows.embeddings.open_encoder import open_encoder
from lavra.workflows.export.export import export
from lavra.workflows.generation.generate import generate
from little_tokenizers import byte_level, wordpiece

SMALL: dict[str, Any] = {
    "model": {"depth": 2, "width": 32, "context": 64},
    "machine": {"device": "cpu", "threads": 1, "compile": "no", "precision": "fp32"},
    "optimization": {"batch_tokens": 256},
    "text": {"vocabulary": 300},
    "objective": {"name": "mlm"},
    "steps": 6,
    "checkpoint_every": 2,
    "samples": 0,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topics_of_python(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> lavra.Run:
    return lavra.train(text, out=str(tmp_path_factory.mktemp("runs") / "encoder"), **SMALL)


def test_the_masked_objective_trains_an_encoder_from_nothing(run: lavra.Run) -> None:
    plan = json.loads((run.path / "plan.json").read_text())
    assert (plan["task"], plan["objective"], plan["model"]["architecture"]) == ("mlm", "mlm", "encoder")
    assert plan["mask_rate"] == plan["final_mask_rate"] == 0.3
    assert plan["model"]["vocabulary"] == 300
    checks = {one["name"]: one["verdict"] for one in json.loads((run.path / "checks.json").read_text())["checks"]}
    assert (
        checks["both_directions"] == checks["document_leak"] == checks["accumulation"] == checks["first_loss"] == "ok"
    )
    tokenizer = Tokenizer.load(run.path / "model")
    assert tokenizer.vocabulary_size == 300
    assert tokenizer.inner.token_to_id("<mask>") is not None
    losses = [line["loss"] for line in run.metrics if line["split"] == "train"]
    assert losses[-1] < losses[0]


def test_a_killed_run_ends_in_the_same_bits(run: lavra.Run, text: Path, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:4:kill"):
            lavra.train(text, out=str(tmp_path / "killed"), **SMALL)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    ours, theirs = weights(run), weights(lavra.resume(tmp_path / "killed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_is_exported_as_modernbert_with_its_mask(run: lavra.Run, tmp_path: Path) -> None:
    exported = export(str(run.path), tmp_path / "exported")
    assert exported.family == "modernbert"
    assert exported.certificate.holds
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    ours = Tokenizer.load(run.path / "model")
    assert tokenizer.mask_token == "<mask>"
    assert tokenizer("a text").input_ids == [*ours.around[0], *ours.encode("a text"), *ours.around[1]]
    assert tokenizer("a <mask>").input_ids[-2] == tokenizer.mask_token_id


def test_labels_are_learned_from_it(run: lavra.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)
    rows = write_rows(tmp_path / "rows.jsonl", reviews(80))
    options = {name: value for name, value in SMALL.items() if name in ("machine", "samples")}
    labelled = lavra.train(rows, base=str(run.path), out=str(tmp_path / "labelled"), steps=4, **options)
    plan = json.loads((labelled.path / "plan.json").read_text())
    assert plan["facts"]["head"]["kind"] == "encoder"
    assert plan["facts"]["head"]["pooling"] == "mean"
    assert 0 <= labelled.result["accuracy"]["value"] <= 1
    assert len(classify(str(labelled.path), ["a lovely film"])) == 1
    with pytest.raises(InputError, match=r"--model\.architecture"):
        lavra.train(rows, base=str(run.path), out=str(tmp_path / "no"), steps=1, model={"architecture": "decoder"})


def test_its_vectors_are_those_of_its_export_and_of_each_text_alone(run: lavra.Run, tmp_path: Path) -> None:
    export(str(run.path), tmp_path / "exported")
    texts = ["a rose", "a longer text than the other one", "words"]
    ours = open_encoder(str(run.path), device="cpu", precision="fp32")
    theirs = open_encoder(str(tmp_path / "exported"), device="cpu", precision="fp32")
    vectors = ours.encode(texts)
    np.testing.assert_allclose(vectors, theirs.encode(texts), atol=2e-6)
    np.testing.assert_allclose(vectors, np.concatenate([ours.encode([one]) for one in texts]), atol=2e-6)


def test_it_is_trained_for_vectors(run: lavra.Run, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"anchor": f"rose number {n}", "positive": f"a flower, {n}"} for n in range(60)]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    options = {name: value for name, value in SMALL.items() if name in ("machine", "samples")}
    further = lavra.train(pairs, base=str(run.path), out=str(tmp_path / "vectors"), steps=2, **options)
    plan = json.loads((further.path / "plan.json").read_text())
    assert (plan["task"], plan["facts"]["head"]["kind"], plan["facts"]["head"]["pooling"]) == (
        "embedding",
        "encoder",
        "mean",
    )
    texts = ["a rose", "a longer text than the other one"]
    encoder = open_encoder(str(further.path), device="cpu", precision="fp32")
    np.testing.assert_allclose(encoder.encode(texts)[:1], encoder.encode(texts[:1]), atol=2e-6)


def test_it_writes_no_text(run: lavra.Run) -> None:
    told = summary(RunFolder(run.path))
    assert "--from" in told
    assert "generate" not in told
    with pytest.raises(InputError, match="writes no text"):
        generate(str(run.path), ["once"])


def test_a_text_prepared_for_decoders_is_refused_and_one_for_encoders_is_taken(text: Path, tmp_path: Path) -> None:
    prepare_text([str(text)], tmp_path / "plain", TextConfig(vocabulary=300))
    with pytest.raises(InputError, match="no mask token"):
        lavra.train(tmp_path / "plain", out=str(tmp_path / "refused"), **SMALL)
    assert not (tmp_path / "refused").exists()
    prepare_text([str(text)], tmp_path / "masked", TextConfig(vocabulary=300, encoder_tokens=True))
    run = lavra.train(tmp_path / "masked", out=str(tmp_path / "run"), check=False, **{**SMALL, "steps": 1})
    assert run.result["step"] == 1


def test_a_plan_counts_the_head_at_the_hidden_tokens_alone(text: Path) -> None:
    options = {name: value for name, value in SMALL.items() if name not in ("checkpoint_every", "samples")}
    report = lavra.plan(text, **options)
    assert report.forecast is None
    assert report.plan is not None
    assert report.plan.model is not None
    spec = report.plan.model
    assert report.flops.exact == training_flops_per_token(spec, predicted=0.3)
    head = 6.0 * 0.7 * spec.width * spec.padded_vocabulary
    assert report.flops.exact == pytest.approx(training_flops_per_token(spec) - head)


@pytest.mark.parametrize(
    ("model", "task", "objective", "expected"),
    [
        ({}, "auto", "auto", "decoder"),
        ({}, "auto", "mlm", "encoder"),
        ({}, "mlm", "auto", "encoder"),
        ({"preset": "8x512"}, "auto", "mlm", "encoder"),
        ({"preset": "lavra-9m"}, "auto", "mlm", "encoder"),
        ({"preset": "gpt2-124m"}, "auto", "mlm", "decoder"),
        ({"preset": "gpt2-124m", "architecture": "encoder"}, "auto", "mlm", "encoder"),
        ({"preset": "modernbert-small"}, "auto", "auto", "encoder"),
        ({}, "classification", "auto", "decoder"),
    ],
)
def test_what_a_model_from_scratch_is(model: dict[str, Any], task: str, objective: str, expected: str) -> None:
    config = SetupConfig(task=task, objective=ObjectiveConfig(name=objective), model=ModelConfig(**model))
    assert kind_from_scratch(config) == expected


def test_tokens_for_an_encoder_are_added_once_and_only_where_they_are_missing() -> None:
    ours, theirs = byte_level(), wordpiece()
    extended = for_encoder(ours)
    assert extended.vocabulary_size == ours.vocabulary_size + 2
    assert extended.encode("a word") == ours.encode("a word")
    assert extended.around_source == ([extended.inner.token_to_id("<cls>")], [ours.end_of_document])
    assert for_encoder(extended) is extended
    assert for_encoder(theirs) is theirs


def test_an_encoder_has_the_size_of_the_decoder_that_was_planned() -> None:
    from lavra.models.native.building import parameters_of

    decoder = DecoderSpec(depth=6, width=384, heads=6)
    assert parameters_of(as_encoder(decoder)) == pytest.approx(parameters_of(decoder), rel=0.05)

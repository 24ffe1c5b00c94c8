"""Replaced-token detection from end to end: from nothing and from a base, killed, measured and exported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lavra
from finished_runs import topics_of_python, weights
from labelled_reviews import reviews, write_rows
from lavra.checks.suite import FULL
from lavra.config.training import (
    MachineConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizationConfig,
    TextConfig,
    TrainConfig,
)
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.building import count_parameters
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.flops import training_flops_per_token
from lavra.planning.machine.memory import estimate_memory
from lavra.reports.run_summary import summary
from lavra.training.batches import DistributedInfo
from lavra.training.fault_injection import injected
from lavra.workflows.export.export import export
from lavra.workflows.models.open import open_model
from lavra.workflows.training.checking import check_context, checked
from lavra.workflows.training.job import TrainingJob

MACHINE: dict[str, Any] = {"device": "cpu", "threads": 1, "compile": "no", "precision": "fp32"}
SMALL: dict[str, Any] = {
    "model": {"depth": 2, "width": 32, "heads": 4, "context": 64},
    "machine": MACHINE,
    "optimization": {"batch_tokens": 256},
    "text": {"vocabulary": 300},
    "objective": {"name": "electra"},
    "steps": 6,
    "checkpoint_every": 2,
    "samples": 0,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topics_of_python(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> lavra.Run:
    return lavra.train(text, out=str(tmp_path_factory.mktemp("runs") / "electra"), **SMALL)


def test_an_encoder_is_trained_beside_a_generator(run: lavra.Run):
    plan = json.loads((run.path / "plan.json").read_text())
    assert (plan["task"], plan["objective"], plan["model"]["architecture"]) == ("electra", "electra", "encoder")
    assert plan["facts"] == {"generator_share": 0.25, "detection_weight": 50.0}
    assert plan["mask_rate"] == 0.15
    checks = {one["name"]: one["verdict"] for one in json.loads((run.path / "checks.json").read_text())["checks"]}
    assert {name: verdict for name, verdict in checks.items() if verdict == "fail"} == {}
    assert checks["both_directions"] == checks["accumulation"] == checks["first_loss"] == checks["labels"] == "ok"
    losses = [line["loss"] for line in run.metrics if line["split"] == "train"]
    assert losses[-1] < losses[0]


def test_the_receipt_says_that_every_token_was_a_target_once(run: lavra.Run):
    assert sum(source["total"] for source in run.result["data_usage"]) == 6 * 256
    assert run.result["targets_per_token"] == pytest.approx(1.0)


def test_what_is_measured_is_how_well_replaced_tokens_are_found(run: lavra.Run):
    for name in ("detection_precision", "detection_recall", "detection_f1", "detection_loss", "generator_loss"):
        assert run.result[name]["value"] >= 0 or np.isnan(run.result[name]["value"])
    assert run.result["loss"]["value"] > 0
    assert not {"perplexity", "bits_per_byte"} & set(run.result)
    lines = [line for line in run.metrics if line["split"] == "validation"]
    assert lines
    assert all({"detection_f1", "generator_loss", "replaced"} <= set(line) for line in lines)
    assert "--from" in summary(RunFolder(run.path))
    assert (run.path / "report.html").exists()


def test_the_generator_is_in_the_checkpoint_and_not_in_the_model(run: lavra.Run):
    assert any(name.startswith("task_head.generator.") for name in weights(run))
    assert not list((run.path / "model").glob("head*"))
    opened = open_model(str(run.path))
    assert opened.task is None
    assert not hasattr(opened.model, "task_head")
    of_checkpoint = open_model(str(max((run.path / "checkpoints").glob("step-*"))))
    assert of_checkpoint.task is None
    assert not hasattr(of_checkpoint.model, "task_head")
    for one, other in zip(opened.model.parameters(), of_checkpoint.model.parameters(), strict=True):
        assert torch.equal(one, other)
    plan = json.loads((run.path / "plan.json").read_text())
    assert plan["parameters"] == count_parameters(opened.model)


def test_a_killed_run_ends_in_the_same_bits(run: lavra.Run, text: Path, tmp_path: Path):
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:4:kill"):
            lavra.train(text, out=str(tmp_path / "killed"), **SMALL)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    ours, theirs = weights(run), weights(lavra.resume(tmp_path / "killed"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_labels_are_learned_from_it(run: lavra.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)
    rows = write_rows(tmp_path / "rows.jsonl", reviews(80))
    labelled = lavra.train(
        rows, base=str(run.path), out=str(tmp_path / "labelled"), steps=2, machine=MACHINE, samples=0
    )
    assert 0 <= labelled.result["accuracy"]["value"] <= 1


def test_it_goes_on_from_an_encoder_and_back(run: lavra.Run, text: Path, tmp_path: Path):
    options = {**SMALL, "steps": 2}
    del options["model"], options["text"]
    masked = lavra.train(
        text, base=str(run.path), out=str(tmp_path / "mlm"), **{**options, "objective": {"name": "mlm"}}
    )
    further = lavra.train(text, base=str(masked.path), out=str(tmp_path / "further"), **options)
    plan = json.loads((further.path / "plan.json").read_text())
    assert (plan["objective"], plan["base"]) == ("electra", str(masked.path / "model"))
    checks = {one["name"]: one["verdict"] for one in json.loads((further.path / "checks.json").read_text())["checks"]}
    assert {name: verdict for name, verdict in checks.items() if verdict == "fail"} == {}
    shutil.rmtree(further.path / "model")
    (further.path / "result.json").unlink()
    assert open_model(str(further.path)).task is None


def test_it_goes_on_from_an_encoder_of_transformers(text: Path, tmp_path: Path):
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    from little_tokenizers import wordpiece

    torch.manual_seed(0)
    folder, tokenizer = tmp_path / "bert", wordpiece()
    shape: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64}
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=tokenizer.vocabulary_size, **shape)).save_pretrained(folder)
    tokenizer.save(folder)
    options = {**SMALL, "steps": 2}
    del options["model"], options["text"]
    further = lavra.train(text, base=str(folder), out=str(tmp_path / "run"), **options)
    assert further.result["step"] == 2
    assert any(name.startswith("task_head.generator.") for name in weights(further))
    assert not any("generator" in name for name in _names(further.path / "model" / "model.safetensors"))


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


@pytest.mark.parametrize("preset", ["auto", "bert-mini"])
def test_the_encoder_is_exported_with_what_it_learned_alone(run: lavra.Run, text: Path, tmp_path: Path, preset: str):
    if preset != "auto":
        model = {"preset": preset, "depth": 2, "width": 32, "heads": 4, "context": 64}
        run = lavra.train(text, out=str(tmp_path / "run"), **{**SMALL, "model": model, "steps": 2})
    exported = export(str(run.path), tmp_path / "exported")
    assert exported.family == ("modernbert" if preset == "auto" else "bert")
    assert exported.certificate.holds
    from transformers import AutoModel

    opened = open_model(str(run.path))
    theirs = AutoModel.from_pretrained(tmp_path / "exported").eval()
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["architectures"][0] in ("ModernBertModel", "BertModel")
    names = _names(tmp_path / "exported" / "model.safetensors")
    assert not any("generator" in name or name.startswith(("head.", "decoder.", "cls.")) for name in names)
    ids = torch.tensor([opened.tokenizer.encode("a text of some words")])
    opened.model.use_task_head()
    from lavra.models.protocols import Batch

    with torch.no_grad():
        ours = opened.model.features(Batch(ids, ids))
        found = theirs(input_ids=ids).last_hidden_state
    torch.testing.assert_close(ours, found, rtol=1e-4, atol=1e-5)


def test_a_plan_knows_the_cost_of_both(text: Path):
    options = {name: value for name, value in SMALL.items() if name not in ("checkpoint_every", "samples")}
    report: Any = lavra.plan(text, hardware="rtx-4090", **{**options, "machine": {"precision": "fp32"}})
    assert report.forecast is None
    assert "generator" in str(report.no_forecast)
    assert report.plan is not None
    assert report.plan.model is not None
    spec = report.plan.model
    assert report.flops.exact > 1.05 * training_flops_per_token(spec, predicted=0.15)
    with_generator = DryRun.of_plan(report.plan, spec)
    assert with_generator.generator == 0.25
    peaks = [estimate_memory(one, 8) for one in (with_generator, replace(with_generator, generator=0.0))]
    assert peaks[0].weights > peaks[1].weights
    assert peaks[0].peak > peaks[1].peak


def test_every_check_is_passed(text: Path, tmp_path: Path):
    config = TrainConfig(
        data=(str(text),),
        steps=6,
        model=ModelConfig(depth=2, width=32, heads=4, context=64),
        text=TextConfig(vocabulary=300),
        objective=ObjectiveConfig(name="electra"),
        optimization=OptimizationConfig(batch_tokens=256),
        machine=MachineConfig(threads=1, precision="fp32", compile="no"),
    )
    job = TrainingJob.create(config, tmp_path, None, DistributedInfo())
    job.build()
    slow = {"check_overfit", "check_speed", "check_compiled"}
    chosen = [one for one in FULL if getattr(one[0], "__name__", "") not in slow]
    try:
        results = checked(check_context(job), chosen, None).results
    finally:
        job.close()
    assert {one.name: one.measured for one in results if one.verdict == "fail"} == {}


def test_losses_of_different_steps_choose_nothing(text: Path, tmp_path: Path):
    with pytest.raises(InputError, match="different questions"):
        lavra.train(text, out=str(tmp_path / "run"), early_stopping=2, **{**SMALL, "steps": 2})


def test_cutout_is_refused(text: Path, tmp_path: Path):
    with pytest.raises(InputError, match="what its generator wrote"):
        lavra.train(text, out=str(tmp_path / "run"), technique={"cutout": 0.2}, **{**SMALL, "steps": 2})


def test_a_decoder_has_no_such_objective(text: Path, tmp_path: Path):
    options = {**SMALL, "model": {**SMALL["model"], "architecture": "decoder"}}
    with pytest.raises(InputError, match="does not fit"):
        lavra.train(text, out=str(tmp_path / "run"), **options)


def test_the_vocabulary_gets_a_mask(run: lavra.Run):
    assert Tokenizer.load(run.path / "model").inner.token_to_id("<mask>") is not None

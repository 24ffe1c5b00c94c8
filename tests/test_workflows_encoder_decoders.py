"""An encoder-decoder of lavra's own from pairs: trained, killed and resumed, writing, exported, and trained on."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lavra
from finished_runs import weights
from lavra.config.generation import GenerateOptions
from lavra.training.fault_injection import injected
from lavra.workflows.export.export import export
from lavra.workflows.generation.generate import generate

SMALL: dict[str, Any] = {
    "model": {"depth": 2, "width": 32, "heads": 2},
    "machine": {"device": "cpu", "threads": 1, "compile": "no", "precision": "fp32"},
    "text": {"vocabulary": 300},
    "objective": {"name": "seq2seq"},
    "steps": 6,
    "checkpoint_every": 2,
    "samples": 1,
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    words = ["rosa", "casa", "mar", "rio", "sol"]
    rows = [
        {"source": " ".join(words[(n * k) % 5] for k in range(1, 7)) + f" {n}", "target": words[n % 5] + f" {n}"}
        for n in range(500)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> lavra.Run:
    return lavra.train(pairs, out=str(tmp_path_factory.mktemp("runs") / "both"), **SMALL)


def test_seq2seq_trains_an_encoder_decoder_from_nothing(run: lavra.Run) -> None:
    plan = json.loads((run.path / "plan.json").read_text())
    assert (plan["task"], plan["model"]["architecture"]) == ("seq2seq", "encoder-decoder")
    assert plan["source_context"] == plan["context"] == 64
    checks = {one["name"]: one["verdict"] for one in json.loads((run.path / "checks.json").read_text())["checks"]}
    wanted = ("causal_leak", "source", "document_leak", "accumulation", "first_loss")
    assert {name: checks[name] for name in wanted} == dict.fromkeys(wanted, "ok")
    losses = [line["loss"] for line in run.metrics if line["split"] == "train"]
    assert losses[-1] < losses[0]


def test_a_killed_run_ends_in_the_same_bits(run: lavra.Run, pairs: Path, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:4:kill"):
            lavra.train(pairs, out=str(tmp_path / "killed"), **SMALL)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    ours, theirs = weights(run), weights(lavra.resume(tmp_path / "killed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_writes_alike_here_and_after_its_export(run: lavra.Run, tmp_path: Path) -> None:
    exported = export(str(run.path), tmp_path / "exported")
    assert exported.family == "t5"
    assert exported.certificate.holds
    options = GenerateOptions(greedy=True, max_new_tokens=6)
    texts = ["rosa casa mar", "sol 12"]
    places = str(run.path), str(tmp_path / "exported")
    ours, theirs = ([one.text for one in generate(place, texts, options, engine="torch")] for place in places)
    assert ours == theirs
    assert any(ours)


def test_it_is_trained_further(run: lavra.Run, pairs: Path, tmp_path: Path) -> None:
    options = {name: SMALL[name] for name in ("machine", "samples")}
    further = lavra.train(pairs, base=str(run.path), out=str(tmp_path / "further"), steps=2, **options)
    plan = json.loads((further.path / "plan.json").read_text())
    assert (plan["task"], plan["base"] is not None) == ("seq2seq", True)
    assert further.result["step"] == 2

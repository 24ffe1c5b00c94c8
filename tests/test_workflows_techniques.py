"""Techniques of a request: a run with them is killed, resumed, measured and planned, and what misfits is refused."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lavra
from finished_runs import weights
from hf_models import hf_model
from lavra.config.techniques import TechniqueConfig
from lavra.config.training import OptimizationConfig, TrainConfig
from lavra.core.errors import InputError
from lavra.models.heads import SequenceHead, TokenHead, attach_head, width_of
from lavra.models.hf.model import HFModel, set_dropout
from lavra.models.native.building import count_parameters
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.classify import Classify
from lavra.objectives.contrastive import Contrastive
from lavra.objectives.wrapping import Wrapper, innermost
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.memory import estimate_memory
from lavra.planning.machine.timed_steps import Probe, TimedSteps
from lavra.training.fault_injection import injected
from lavra.training.optimizers.optimizers import layer_factors
from lavra.training.optimizers.schedules import Schedule
from lavra.workflows.training.autoconfig import _global_batch_size, _micro_batch_size
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.techniques import (
    cost_of_first_steps,
    cost_of_steps,
    follow_progress,
    perturbs_weights,
    technique_updates,
    with_techniques,
)
from lavra.workflows.training.time_budget import begins_alike
from little_tokenizers import byte_level
from plans import a_plan
from tiny_training import tiny_trainer

SMALL: dict[str, Any] = {
    "model": {"depth": 1, "width": 32, "context": 32},
    "machine": {"device": "cpu", "compile": "no", "precision": "fp32"},
    "optimization": {"batch_tokens": 256},
    "text": {"vocabulary": 300},
    "steps": 6,
    "checkpoint_every": 2,
}
MANY: dict[str, Any] = {
    "sam": 0.05,
    "ascent_fraction": 0.5,
    "mixup": 0.4,
    "cutout": 0.2,
    "random_crop": 10,
    "progressive_length": 0.5,
    "dropout_samples": 3,
    "unfreeze": 0.5,
}


@pytest.fixture(autouse=True)
def networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the linear baseline, which would label these texts better than a network of a few steps."""
    monkeypatch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    kinds = [("good", "a great film, number"), ("bad", "a poor thing, number")]
    rows = [{"text": f"{kinds[n % 2][1]} {n}" + " of them" * (n % 5), "label": kinds[n % 2][0]} for n in range(120)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return path


def test_a_run_with_many_techniques_is_checked_killed_resumed_and_measured(reviews: Path, tmp_path: Path):
    whole = lavra.train(reviews, out=str(tmp_path / "whole"), technique=MANY, **SMALL)
    checks = {one["name"]: one["verdict"] for one in json.loads((whole.path / "checks.json").read_text())["checks"]}
    assert checks["accumulation"] == checks["evaluation"] == checks["gradient_flow"] == "ok"
    lines = [line for line in whole.metrics if line["split"] == "train"]
    assert all(line["perturbed_loss"] > 0 for line in lines)
    assert lines[0]["frozen_tensors"] > lines[-1]["frozen_tensors"] == 0

    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:4:kill"):
            lavra.train(reviews, out=str(tmp_path / "killed"), technique=MANY, **SMALL)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    ours, theirs = weights(whole), weights(lavra.resume(tmp_path / "killed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    found = lavra.evaluate(str(whole.path)).to_json()
    assert found["accuracy"] == whole.result["accuracy"]


def test_a_request_without_techniques_is_left_as_it_is():
    trainer = tiny_trainer()
    assert technique_updates(TechniqueConfig(), trainer) == []
    objective = trainer.objective
    assert with_techniques(TechniqueConfig(), objective, trainer.model, None) is objective  # pyright: ignore[reportArgumentType]
    assert cost_of_steps(TechniqueConfig()) == cost_of_first_steps(TechniqueConfig()) == 1.0


def test_each_technique_is_made():
    trainer = tiny_trainer()
    requests: dict[str, Any] = {name: {name: 0.1} for name in ("sam", "asam", "awp", "fgm", "unfreeze")}
    made = {name: technique_updates(TechniqueConfig(**asked), trainer)[0].name for name, asked in requests.items()}
    assert made == {"sam": "sam", "asam": "asam", "awp": "awp", "fgm": "fgm", "unfreeze": "unfreezing"}
    together = technique_updates(TechniqueConfig(unfreeze=0.2, sam=0.1), trainer)
    assert [one.name for one in together] == ["sam", "unfreezing"]


def encoder(head: type[Any] = SequenceHead, dropout: float = 0.0) -> HFModel:
    model = hf_model("bert")
    set_dropout(model, 0.0)
    attach_head(model, head(width_of(model), 3, dropout=dropout))
    return model


def wrapped(model: Any = None, objective: Any = None, rows: str = "labelled", **asked: Any) -> Any:
    data: Any = SimpleNamespace(rows=rows, tokenizer=byte_level())
    return with_techniques(TechniqueConfig(**asked), objective or Classify(32, 3), model or encoder(dropout=0.1), data)


def test_every_technique_of_an_objective_is_a_wrapper(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lavra.workflows.training.techniques._longest", lambda dataset: 32)
    requests: list[dict[str, Any]] = [{name: 0.2} for name in ("mixup", "cutout", "progressive_length", "r_drop")]
    for asked in [*requests, {"random_crop": 8}]:
        found, name = wrapped(**asked), next(iter(asked))
        assert isinstance(found, Wrapper), name
        assert isinstance(innermost(found), Classify)
    assert isinstance(wrapped(dropout_samples=2, dropout_average="losses"), Wrapper)
    model = encoder(dropout=0.3)
    assert isinstance(wrapped(model, dropout_samples=4), Classify)
    assert model.task_head.dropout_samples == 4  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mixup": 0.2, "rows": "text"}, "--mixup is for texts with labels"),
        ({"random_crop": 8, "rows": "pairs"}, "--random-crop is for texts with labels"),
        ({"mixup": 0.2, "model": lambda: encoder(TokenHead)}, "--mixup is for labels of whole texts"),
        ({"random_crop": 8, "model": lambda: encoder(TokenHead)}, "--random-crop is for labels of whole texts"),
        ({"dropout_samples": 4, "model": encoder}, "--dropout-samples needs dropout"),
        ({"r_drop": 1.0, "model": encoder}, "--r-drop compares passes that differ by dropout"),
        ({"cutout": 0.1, "objective": Contrastive(32)}, "--cutout does not fit"),
        ({"cutout": 0.1, "model": lambda: hf_model("t5")}, "--cutout does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], told: str):
    if "model" in options:
        options = {**options, "model": options["model"]()}
    with pytest.raises(InputError, match=told):
        wrapped(**options)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"sam": 0.1, "asam": 0.1}, "--sam and --asam both perturb"),
        ({"awp": 0.1, "fgm": 0.1}, "--awp and --fgm both perturb"),
        ({"mixup": 0.1, "r_drop": 0.1}, "--mixup and --r-drop both compute"),
    ],
)
def test_what_contradicts_itself_is_refused(asked: dict[str, Any], told: str):
    with pytest.raises(InputError, match=told):
        TechniqueConfig(**asked)


def test_values_out_of_range_are_refused_before_anything_is_read():
    for field in fields(TechniqueConfig):
        if "Literal" in str(field.type):
            continue
        given: dict[str, Any] = {field.name: -1}
        with pytest.raises(InputError, match=f"--technique.{field.name.replace('_', '-')} -1"):
            refuse_impossible(TrainConfig(technique=TechniqueConfig(**given), steps=3))
    with pytest.raises(InputError, match="no time can be kept"):
        refuse_impossible(TrainConfig(technique=TechniqueConfig(progressive_length=0.2), budget=60.0))


# Plans and budgets.


def test_a_plan_counts_every_gradient():
    def seconds(**technique: float) -> float:
        found = lavra.plan(
            model={"depth": 1, "width": 64, "context": 64}, tokens=10_000_000, hardware="a100-40gb", efficiency=0.4,
            machine={"micro_batch_size": 1}, technique=technique,
        )  # fmt: skip
        return found.cost.seconds

    plain = seconds()
    assert seconds(sam=0.05) == pytest.approx(2 * plain)
    assert seconds(sam=0.05, ascent_fraction=0.25) == pytest.approx(1.25 * plain)
    assert seconds(awp=0.01, awp_start=0.5) == pytest.approx(1.5 * plain)


def test_a_plan_counts_the_copies_of_perturbed_weights():
    spec = DecoderSpec(vocabulary=512, context=32, depth=1, width=64, heads=1)
    dry_run = DryRun(spec, 32)
    plain, perturbed = (estimate_memory(replace(dry_run, perturbs=one), 1) for one in (False, True))
    assert perturbed.gradients - plain.gradients == 2 * 4 * count_parameters(Decoder(spec))
    assert perturbs_weights(TechniqueConfig(awp=0.1))
    assert not perturbs_weights(TechniqueConfig(r_drop=1.0))


def test_steps_that_were_timed_before_a_technique_begins_count_as_what_follows():
    asked = TechniqueConfig(awp=0.01, awp_start=0.75)
    timed = TimedSteps(Probe(3.0, 2.0, 4, 100.0), (), lambda: None)
    slower = timed.slower(cost_of_steps(asked) / cost_of_first_steps(asked))
    assert (slower.probe.step_seconds, slower.probe.tokens_per_second) == (2.5, 80.0)
    assert timed.slower(1.0).probe == timed.probe


def test_a_technique_that_goes_by_shares_of_the_run_fixes_its_length():
    plan = replace(a_plan(), schedule=Schedule("wsd"))
    for asked, alike in (
        (TechniqueConfig(sam=0.1, awp_start=0.5, mixup=0.1), True),
        (TechniqueConfig(awp=0.1, awp_start=0.5), False),
        (TechniqueConfig(unfreeze=0.2), False),
        (TechniqueConfig(progressive_length=0.2), False),
    ):
        assert begins_alike(plan, TrainConfig(technique=asked)) is alike
        assert follow_progress(asked) is not alike


def test_rows_that_are_mixed_share_a_micro_batch():
    config = TrainConfig(optimization=OptimizationConfig(batch_tokens=320))
    assert _global_batch_size(config, 32, 1e6, 2, 1.0, None, adapting=True) == 10
    assert _micro_batch_size(config, 32, 10, 100_000, 2) == 10
    assert _micro_batch_size(config, 32, 10, 5 * 32, 1) == 5
    assert _micro_batch_size(config, 32, 10, 5 * 32, 2) == 2
    with pytest.raises(InputError, match="x 4 \\(processes, and rows that are mixed\\)"):
        _global_batch_size(config, 32, 1e6, 4, 1.0, None, adapting=True)
    assert _global_batch_size(TrainConfig(), 32, 1e3, 4, 1.0, 33 * 32, adapting=True) == 36


# Wrapped encoders with a head.


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_the_head_of_an_encoder_has_the_full_rate_and_its_embeddings_the_least(family: str):
    model = hf_model(family)
    attach_head(model, SequenceHead(width_of(model), 3, pooling="attention"))
    learned = [name for name, weight in model.named_parameters() if weight.requires_grad]
    factors, depth = layer_factors(learned, 0.5), 3 if family == "modernbert" else 2
    heads = {name: factor for name, factor in factors.items() if name.startswith("task_head.")}
    assert heads == dict.fromkeys(heads, 1.0)
    assert len(heads) == 3
    assert {factor for name, factor in factors.items() if ".layer" in name and ".0." in name} == {0.5**depth}
    words = [name for name in factors if "embeddings" in name and "rel_embeddings" not in name]
    assert {factors[name] for name in words} == {0.5 ** (depth + 1)}


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_dropout_reaches_every_part_of_an_encoder(family: str):
    model, ids = hf_model(family), torch.arange(8, 20)[None]
    model.train()
    for probability in (0.0, 0.3):
        set_dropout(model, probability)
        one, other = (model.features(Batch(ids, ids)) for _ in range(2))
        assert torch.equal(one, other) is (probability == 0.0)
        kept = {name: value for name, value in model.inner.config.to_dict().items() if "dropout" in name}
        assert {value for value in kept.values() if value is not None} == {probability}

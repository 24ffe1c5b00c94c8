"""A task and an update that are defined outside of the package: trained, killed, resumed, evaluated, exported."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lavra
from lavra.core.errors import InputError
from lavra.core.seeds import row_streams
from lavra.data.examples.labelled import LabelColumns
from lavra.evaluation.intervals import ratio_estimates
from lavra.models.heads import head_of
from lavra.models.protocols import Batch
from lavra.objectives.base import Loss, padded_width
from lavra.tasks.base import Measured, Task, Trained
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.table import choose_task, register, tasks
from lavra.training.plan import Plan
from lavra.training.updates import Outcome, Update
from lavra.training.updates.table import register_update
from lavra.workflows.export.export import export
from lavra.workflows.models.open import open_model


# --8<-- [start:task]
class MeanHead(nn.Module):
    """One score for each class, from the mean of the features of a text."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.scores = nn.Linear(width, classes)
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = mask[..., None].to(features.dtype)
        return self.scores((features * weights).sum(1) / weights.sum(1)).float()


@dataclass(frozen=True)
class Sentiment:
    """The class of each text, by the cross-entropy of the head's scores."""

    context: int
    classes: tuple[str, ...]

    def encode(self, rows: Any, streams: Any, progress: float) -> Batch:
        texts = [row.examples[0] for row in rows]
        shape = len(texts), padded_width(max(len(text.tokens) for text in texts), self.context)
        inputs, document_ids = np.zeros(shape, np.int64), np.full(shape, -1, np.int32)
        for place, text in enumerate(texts):
            inputs[place, : len(text.tokens)], document_ids[place, : len(text.tokens)] = text.tokens, 0
        return Batch(
            torch.from_numpy(inputs),
            torch.tensor([self.classes.index(text.labels["label"]) for text in texts])[:, None],
            torch.from_numpy(document_ids),
            torch.arange(shape[1]).expand(shape).contiguous(),
            weight=float(len(texts)),
            documents=tuple(text.number for text in texts),
        )

    def loss(self, model: Any, batch: Batch, *, learning: bool = True) -> Loss:
        scores = model.task_head(model.features(batch), batch.document_ids >= 0)
        right = batch.targets[:, 0]
        correct = (scores.argmax(-1) == right).sum()
        return Loss(F.cross_entropy(scores, right, reduction="sum"), batch.weight, {"accuracy": correct})


class SentimentTask(Task):
    """Which of some classes a text belongs to."""

    name, objectives = "sentiment", ("sentiment",)
    rows, columns = "labelled", LabelColumns("text", ("label",))
    causal, packs, headline = False, False, "accuracy"

    def recognises(self, data: DataDescription) -> bool:
        return {"text", "label"} <= data.columns or (data.prepared == "labelled" and "label" in data.columns)

    def facts(self, dataset: Dataset) -> dict[str, Any]:
        assert isinstance(dataset, LabelledDataset)
        return {"classes": sorted(set(dataset.labels("label")))}

    def head(self, facts: dict[str, Any], width: int) -> nn.Module:
        return MeanHead(len(facts["classes"]), width)

    def objective(self, plan: Plan, model: Any, dataset: Dataset) -> Sentiment:
        return Sentiment(plan.context, tuple(plan.facts["classes"]))

    def first_loss(self, facts: dict[str, Any]) -> float:
        return math.log(len(facts["classes"]))

    def must_learn(self, tokenizer: Any) -> Collection[int]:
        return ()

    def metrics(self, loss: float, parts: Any, **_: Any) -> dict[str, float]:
        return dict(parts)

    def evaluate(self, trained: Trained) -> Measured:
        rows = trained.dataset.validation_set(trained.plan)
        right: list[float] = []
        for number in range(rows.rows):
            batch = trained.objective.encode(
                rows.source.rows(number, 1), row_streams(0, "validation", first=number), 1.0
            )
            with torch.no_grad():
                loss = trained.objective.loss(trained.model, batch.to(trained.device), learning=False)
            right.append(float(loss.parts["accuracy"]))
        accuracy = ratio_estimates(right, {"accuracy": [1.0] * len(right)}, seed=trained.plan.seed)["accuracy"]
        return Measured({"accuracy": accuracy.to_json()}, f"accuracy {accuracy.value:.3f} on {rows.rows} texts")


# --8<-- [end:task]


class HalfNoise(Update):
    """Adds noise to the gradients, of a generator whose state is kept."""

    name = "half-noise"

    def __init__(self) -> None:
        self.drawn = 0

    def around(self, step: Any, inner: Any) -> Outcome:
        generator = torch.Generator().manual_seed(self.drawn)
        for gradient in step.master_weights.gradients():
            gradient.add_(torch.randn(gradient.shape, generator=generator) * 1e-4)
        self.drawn += 1
        return inner()

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Any) -> None:
        self.drawn = state["drawn"]


SMALL: dict[str, Any] = {
    "model": {"depth": 1, "width": 32, "context": 32},
    "machine": {"device": "cpu", "compile": "no", "precision": "fp32"},
    "optimization": {"batch_tokens": 256},
    "text": {"vocabulary": 300},
    "steps": 8,
    "checkpoint_every": 2,
    "update": ("half-noise",),
}


@pytest.fixture(autouse=True)
def registered() -> Any:
    before = tasks()
    register(SentimentTask())
    register_update("half-noise", lambda trainer: HalfNoise())
    yield
    from lavra.tasks import table

    table._TABLE.clear()
    table._TABLE.update({task.name: task for task in before})


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    kinds = [("good", "a great film, number"), ("bad", "a poor thing, number")]
    rows = [{"text": f"{kinds[n % 2][1]} {n}", "label": kinds[n % 2][0]} for n in range(120)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return path


def weights(run: lavra.Run) -> dict[str, torch.Tensor]:
    from lavra.training.checkpoints.checkpoints import CheckpointStore

    checkpoint = CheckpointStore(run.path / "checkpoints").latest()
    assert checkpoint is not None
    return checkpoint.load("master_weights")


def test_a_task_from_outside_is_trained_killed_resumed_evaluated_and_exported(reviews: Path, tmp_path: Path) -> None:
    whole = lavra.train(reviews, out=str(tmp_path / "whole"), **SMALL)
    assert whole.plan["task"] == "sentiment"
    assert whole.plan["facts"]["classes"] == ["bad", "good"]
    assert {"accuracy"} <= set(whole.metrics[-1])

    child = os.fork()
    if not child:
        os.environ["LAVRA_FAULTS"] = ""
        from lavra.training.fault_injection import injected

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:5:kill"):
            lavra.train(reviews, out=str(tmp_path / "killed"), **SMALL)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL

    killed = lavra.resume(tmp_path / "killed")
    ours, theirs = weights(whole), weights(killed)
    assert any(name.startswith("task_head.") for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    found = lavra.evaluate(str(whole.path))
    assert found.to_json()["accuracy"]["value"] == whole.result["accuracy"]["value"]
    assert 0.0 <= whole.result["accuracy"]["low"] <= whole.result["accuracy"]["high"] <= 1.0

    export(str(whole.path), tmp_path / "exported")

    mine, exported = (head_of(open_model(str(place), "cpu").model) for place in (whole.path, tmp_path / "exported"))
    for name, tensor in mine.state_dict().items():
        assert torch.equal(tensor, exported.state_dict()[name])


def test_a_row_with_a_label_is_its_task_and_other_rows_are_what_they_were(reviews: Path) -> None:
    def chosen(*columns: str) -> str:
        return choose_task("auto", "auto", "decoder", DataDescription(frozenset(columns)), "a model")[0].name

    assert chosen("text", "label") == "sentiment"
    assert chosen("text") == "language-modelling"
    assert chosen("prompt", "completion") == "completion"
    with pytest.raises(InputError, match="there is no task 'sentimant'"):
        choose_task("sentimant", "auto", "decoder", DataDescription(), "a model")


def test_an_update_that_nobody_registered_is_refused_by_name(reviews: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no update 'half-nois' is registered"):
        lavra.train(reviews, out=str(tmp_path / "run"), **{**SMALL, "update": ("half-nois",)})
    assert not (tmp_path / "run").exists()  # it is refused before anything is read or written

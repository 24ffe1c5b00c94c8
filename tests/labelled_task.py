"""A task of texts with one label, made of the head and the objective that come with the package."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lavra.data.examples.rows import LabelColumns
from lavra.models.heads import SequenceHead
from lavra.models.protocols import Batch
from lavra.objectives.classify import Classify, LabelledText
from lavra.tasks.base import Measured, ModelKind, Task, Trained
from lavra.tasks.datasets import DataDescription, Dataset, LabelledDataset
from lavra.training.plan import Plan


@dataclass(frozen=True)
class LabelsOfRows(Classify):
    """`Classify` for the rows of a labelled data set.

    Attributes:
        classes: The names of the classes.
    """

    classes: tuple[str, ...] = ()

    def encode(self, rows: Any, streams: Any, progress: float) -> Batch:
        texts = [
            [LabelledText(text.number, text.tokens, self.classes.index(text.labels["label"])) for text in row.examples]
            for row in rows
        ]
        return super().encode(texts, streams, progress)


class LabelTask(Task):
    """Which of some classes a text belongs to."""

    name, objectives = "labels-of-texts", ("labels-of-texts",)
    kinds: tuple[ModelKind, ...] = ("decoder", "encoder")
    rows, columns = "labelled", LabelColumns("text", ("label",))
    causal, headline = False, "accuracy"

    def recognises(self, data: DataDescription) -> bool:
        return {"text", "label"} <= data.columns or (data.prepared == "labelled" and "label" in data.columns)

    def facts(self, dataset: Dataset) -> dict[str, Any]:
        assert isinstance(dataset, LabelledDataset)
        return {"classes": sorted(set(dataset.labels("label")))}

    def head(self, facts: dict[str, Any], width: int) -> nn.Module:
        head = SequenceHead(width, len(facts["classes"]))
        nn.init.zeros_(head.output.weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(head.output.bias)  # pyright: ignore[reportArgumentType]
        return head

    def objective(self, plan: Plan, model: Any, dataset: Dataset) -> LabelsOfRows:
        classes = tuple(plan.facts["classes"])
        return LabelsOfRows(plan.context, len(classes), classes=classes)

    def first_loss(self, facts: dict[str, Any]) -> float:
        return math.log(len(facts["classes"]))

    def must_learn(self, tokenizer: Any) -> tuple[int, ...]:
        return ()

    def metrics(self, loss: float, parts: Any, **_: Any) -> dict[str, float]:
        return dict(parts)

    def evaluate(self, trained: Trained) -> Measured:
        rows = trained.dataset.validation_set(trained.plan)
        batch = trained.objective.encode(rows.source.rows(0, rows.rows), lambda place: None, 1.0)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            loss = trained.objective.loss(trained.model, batch.to(trained.device), learning=False)
        accuracy = float(loss.parts["accuracy"]) / loss.weight
        return Measured({"accuracy": {"value": accuracy}}, f"accuracy {accuracy:.3f}")

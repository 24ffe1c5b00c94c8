"""Trainings of tiny wrapped models on made-up rows: prompts with answers, pairs of texts, and windows to mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hf_models as tiny
from lavra.checks.base import CheckContext, Storage
from lavra.data.examples.store import Example, PackedRow
from lavra.data.packing import Window
from lavra.data.tokenizers.word_boundaries import Words
from lavra.models.hf.folders import open_hf_model, save_hf_model
from lavra.models.hf.kinds import Kind
from lavra.models.hf.model import HFModel
from lavra.objectives.completion import Completion
from lavra.objectives.mlm import MaskedLM
from lavra.objectives.seq2seq import Seq2Seq
from lavra.training.batches import BatchSource
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.precision import Precision
from lavra.training.trainer import Trainer

CONTEXT = 32
STEPS = 6
MASK = 3


class Rows:
    """Rows of a list, over and over."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.all = list(rows)

    def rows(self, start: int, count: int) -> list[Any]:
        return [self.all[number % len(self.all)] for number in range(start, start + count)]


def rows_for(kind: Kind, count: int = 24, several: int = 2) -> list[Any]:
    """Return rows of several documents each: what a document ends with is told by how it begins."""
    rng = np.random.default_rng(5)

    def text(length: int) -> np.ndarray:
        return rng.integers(tiny.FIRST, tiny.VOCABULARY, length)

    rows: list[Any] = []
    for number in range(count):
        lengths = rng.integers(6, 12, several)
        if kind == "encoder":
            parts = [np.append(text(length), tiny.END) for length in lengths]
            tokens = np.concatenate([[tiny.END], *parts])
            document_ids = np.concatenate([np.full(len(part), place) for place, part in enumerate(parts)])
            positions = np.concatenate([np.arange(len(part)) for part in parts])
            rows.append(
                Window(tokens, document_ids + several * number, document_ids.astype(np.int32), positions, tokens[:-1])
            )
            continue
        examples = []
        for place, length in enumerate(lengths):
            source = text(length)
            answer = np.append(source[::2], tiny.END)
            if kind == "encoder-decoder":
                examples.append(Example(several * number + place, answer, np.ones(len(answer), bool), source))
            else:
                tokens = np.concatenate([[tiny.START], source, answer])
                learned = np.arange(len(tokens)) > len(source)
                examples.append(Example(several * number + place, tokens, learned))
        rows.append(PackedRow(tuple(examples)))
    return rows


def words() -> Words:
    """Return a vocabulary of whole words."""
    special = np.arange(tiny.VOCABULARY) < tiny.FIRST
    return Words(~special, np.zeros_like(special), ~special, ~special, special)


def objective_for(model: HFModel) -> Any:
    """Return the objective of a kind of model."""
    if model.kind == "encoder":
        return MaskedLM(CONTEXT, MASK, words(), rate=0.3)
    if model.kind == "encoder-decoder":
        return Seq2Seq(CONTEXT, CONTEXT, model.decoder_inputs)
    return Completion(CONTEXT)


def training(
    model: HFModel,
    *,
    objective: Any = None,
    rows: Sequence[Any] | None = None,
    micro_batch_size: int = 4,
    precision: Precision = "fp32",
    steps: int = STEPS,
    learning_rate: float = 3e-3,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a plain value
) -> Trainer:
    """Return a trainer of a wrapped model at its first step."""
    objective = objective or objective_for(model)
    source = Rows(rows_for(model.kind) if rows is None else rows)
    batches = BatchSource(
        source, objective, global_batch_size=4, micro_batch_size=micro_batch_size, steps=steps, seed=0
    )
    return Trainer(
        model.train(),
        objective,
        batches,
        optimizer=OptimizerOptions("adamw", learning_rate=learning_rate),
        schedule=Schedule(),
        precision=precision,
        device=device,
        steps=steps,
    )


def check_context_of(model: HFModel, **options: Any) -> CheckContext:
    """Return a training as a subject of checks."""
    trainer = training(model, **options)

    def save(folder: Path) -> None:
        save_hf_model(folder, model)

    return CheckContext(
        trainer,
        trainer.objective,
        trainer.batches.source,
        rows=4,
        causal=model.kind != "encoder",
        must_learn=() if model.kind == "encoder" else (tiny.END,),
        tied=model.tied,
        storage=Storage(save, lambda folder: open_hf_model(folder).to(trainer.device)),
    )

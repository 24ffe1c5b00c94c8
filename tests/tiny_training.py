"""Real text in a small token store, and trainers small enough to run in milliseconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch

from lavra.core.seeds import Streams
from lavra.data.packing import WindowSource
from lavra.data.token_store.store import TokenStore
from lavra.data.token_store.writer import StoreWriter
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.base import Loss
from lavra.objectives.causal import Causal
from lavra.training.batches import BatchSource, DistributedInfo
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.precision import Precision
from lavra.training.step import Step
from lavra.training.trainer import StepReport, Trainer
from lavra.training.updates import Outcome, Update
from lavra.training.updates.base import Inner

CONTEXT = 32
SPEC = DecoderSpec(vocabulary=400, context=CONTEXT, depth=2, width=32, heads=4, kv_heads=2)

Chain = Callable[[Trainer], Sequence[Update]]


@cache
def topics_tokenizer() -> Tokenizer:
    """Return the tokenizer of the topics."""
    return Tokenizer.train(_texts(), SPEC.vocabulary)


def _texts() -> list[str]:
    return sorted(topics.values(), key=len)[2:9]


@cache
def topics_store() -> TokenStore:
    """Return short topics of Python's documentation, tokenised: some hundreds of tokens, so that epochs are short."""
    texts, tokenizer = _texts(), topics_tokenizer()
    with tempfile.TemporaryDirectory() as folder:  # memory maps outlive their files
        with StoreWriter(Path(folder) / "store", tokenizer) as writer:
            for text in texts:
                writer.add("topics", text, np.array(tokenizer.encode(text)))
        return writer.opened()


def lively(spec: DecoderSpec, seed: int = 0) -> Decoder:
    """Return a float32 decoder whose every weight matters, unlike fresh ones, whose branches begin at zero."""
    model = build_decoder(spec, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def tiny_trainer(
    *,
    spec: DecoderSpec = SPEC,
    model: Decoder | None = None,
    objective: Any = None,
    optimizer: OptimizerOptions = OptimizerOptions(),  # noqa: B008 - frozen
    schedule: Schedule = Schedule(warmup_steps=2),  # noqa: B008 - frozen
    precision: Precision = "fp32",
    steps: int = 6,
    global_batch_size: int = 4,
    micro_batch_size: int = 4,
    seed: int = 0,
    distributed: DistributedInfo = DistributedInfo(),  # noqa: B008 - frozen
    updates: Chain = lambda trainer: [],
    report: Callable[[str], None] = lambda text: None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a plain value
) -> Trainer:
    """Return a trainer on the topics, at its first step."""
    objective = objective or Causal(CONTEXT)
    batches = BatchSource(
        WindowSource(topics_store(), CONTEXT, seed),
        objective,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        steps=steps,
        seed=seed,
        distributed=distributed,
    )
    trainer = Trainer(
        model or build_decoder(replace(spec, vocabulary=topics_store().manifest.vocabulary_size), seed),
        objective,
        batches,
        optimizer=optimizer,
        schedule=schedule,
        precision=precision,
        device=device,
        steps=steps,
        report=report,
    )
    trainer.updates = list(updates(trainer))
    return trainer


def run(trainer: Trainer, steps: int | None = None) -> list[StepReport]:
    """Run `steps` more steps, or all that are left."""
    return [trainer.run_step() for _ in range(trainer.steps - trainer.step if steps is None else steps)]


def all_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return copies of every tensor of the training state, the working weights included."""
    saved = {
        f"{group}/{name}": tensor.clone() for group, part in trainer.tensors().items() for name, tensor in part.items()
    }
    return saved | {
        f"working/{name}": weight.detach().clone() for name, weight in trainer.master_weights.working.items()
    }


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Fail unless names and bits are equal."""
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of all tensors, relative to the norm of the right ones."""
    assert left.keys() == right.keys()
    moved = sum(float((left[name].double() - right[name].double()).square().sum()) for name in right)
    return (moved / sum(float(tensor.double().square().sum()) for tensor in right.values())) ** 0.5


class Capture(Update):
    """An update that keeps loss, weight and gradient of each step."""

    name = "capture"

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.weights: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def around(self, step: Step, inner: Inner) -> Outcome:
        self.losses.append(step.loss)
        self.weights.append(step.weight)
        gradients = {name: weight.grad for name, weight in step.master_weights.weights.items()}
        self.gradients.append({name: grad.clone() for name, grad in gradients.items() if grad is not None})
        return inner()


class Poisoned:
    """The causal objective, whose loss is not a number in some steps of a run.

    Args:
        bad: numbers of those steps, from 0.
        steps: the length of the run.
        value: what the loss is multiplied by there.
    """

    def __init__(self, bad: set[int], steps: int, value: float = float("nan")) -> None:
        self.bad, self.steps, self.value, self.inner = bad, steps, value, Causal(CONTEXT)

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        batch = self.inner.encode(rows, streams, progress)
        factor = self.value if round(progress * self.steps) in self.bad else 1.0
        batch.model_inputs["factor"] = torch.tensor(factor)
        return batch

    def loss(self, model: Any, batch: Batch, *, learning: bool = True) -> Loss:
        loss = self.inner.loss(model, batch, learning=learning)
        return Loss(loss.sum * batch.model_inputs["factor"], loss.weight)

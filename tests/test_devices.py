"""Everything that learns or answers on a GPU runs with its tensors there: nothing is drawn, made or indexed elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import check_subjects
import tiny_training as tiny
import wrapped_models
import wrapped_training
from byte_level import ByteTokenizer, lively_decoder
from fake_gpu import GPU, OnGPU, fake_gpu
from lavra.checks.base import Subject
from lavra.checks.battery import FULL, run_checks
from lavra.checks.labels import check_labels
from lavra.data.bigrams import count_bigrams
from lavra.data.prepare import Prepared
from lavra.generation.generate import generate
from lavra.generation.options import GenerateOptions
from lavra.generation.scoring import score
from lavra.models.bigram_start import loss_by_bigrams, start_from_bigrams
from lavra.models.decoder import build_decoder
from lavra.training.checkpoints import CheckpointStore
from lavra.training.optimizers import OptimizerOptions
from lavra.training.updates import Clip, ExponentialAverage, SnapshotAverage

CPU = torch.device("cpu")
TOKENIZER: Any = ByteTokenizer()
SHAPES: dict[str, dict[str, Any]] = {
    "rope, grouped, recall, pairs": {"recall": True, "pairs": 64},
    "alibi, dropout": {"positions": "alibi", "kv_heads": 0, "dropout": 0.1},
    "learned, gpt2": {"positions": "learned", "norm": "layernorm", "initialization": "gpt2", "tied": True},
}
WRAPPED = ("gpt2", "t5", "bert")


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """A GPU for the length of a test."""
    with fake_gpu() as device:
        yield device


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return check_subjects.corpus("laws", tmp_path_factory.mktemp("laws"))


def all_there(module: Any) -> bool:
    return all(isinstance(one, OnGPU) for one in [*module.parameters(), *module.buffers()])


PLANTED: dict[str, Callable[[torch.Tensor], Any]] = {
    "a CPU generator": lambda x: torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(1)),
    "a CPU generator under a default device": lambda x: _under_default(x, torch.Generator()),
    "a GPU generator on the CPU": lambda x: torch.randn(3, generator=torch.Generator(x.device)),
    "a CPU mask": lambda x: x.masked_fill(torch.ones(2, 3, dtype=torch.bool), 0.0),
    "a CPU index to gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "a CPU index to an embedding": lambda x: torch.nn.functional.embedding(torch.tensor([1]), x),
    "CPU targets": lambda x: torch.nn.functional.cross_entropy(x, torch.tensor([0, 1])),
    "CPU positions": lambda x: x + torch.arange(3),
    "a CPU scalar in a stack": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "CPU values for places": lambda x: x.__setitem__(slice(0, 1), torch.ones(1, 3)) or x.add_(torch.ones(1, 3)),
    "GPU indices into a CPU tensor": lambda x: torch.zeros(3)[x.long().flatten()[:1] * 0],
    "an array of the GPU": lambda x: x.numpy(),
}


def _under_default(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    with x.device:
        return torch.randint(3, (2,), generator=generator)


@pytest.mark.parametrize("name", PLANTED)
def test_the_fake_gpu_refuses_what_a_gpu_refuses(name: str, gpu: torch.device) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        PLANTED[name](torch.ones(2, 3, device=gpu))


def test_the_fake_gpu_takes_what_a_gpu_takes(gpu: torch.device) -> None:
    x = torch.randn(2, 3, device=gpu, generator=torch.Generator(gpu).manual_seed(0)).requires_grad_()
    y = (x * torch.tensor(2.0))[torch.tensor([0])]
    y.sum().backward()
    assert isinstance(x.grad, OnGPU)
    assert x.grad.tolist() == [[2.0] * 3, [0.0] * 3]
    with gpu:
        assert torch.tensor([1]).device == torch.arange(3).device == gpu
    assert x.detach().cpu().device == CPU
    assert torch.arange(3).device == CPU


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_steps_of_a_decoder_are_those_of_the_cpu(name: str, optimizer: Any, gpu: torch.device) -> None:
    spec = replace(tiny.SPEC, **SHAPES[name])
    losses: list[list[float]] = []
    for device in (CPU, gpu):
        trainer = tiny.tiny_trainer(
            spec=spec,
            optimizer=OptimizerOptions(optimizer),
            micro_rows=2,
            updates=lambda trainer: [
                ExponentialAverage(trainer.masters, 0.9),
                SnapshotAverage(trainer.masters, 0, 1),
                Clip(1.0),
            ],
            device=device,
        )
        losses.append([report.loss for report in tiny.run(trainer, 3)])
        with trainer.evaluating():
            pass
    assert all_there(trainer.model)
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_in_low_precision(precision: Any, gpu: torch.device) -> None:
    trainer = tiny.tiny_trainer(precision=precision, device=gpu)
    assert tiny.run(trainer, 2)[1].loss < 7
    assert all_there(trainer.model)


@pytest.mark.parametrize("name", WRAPPED)
def test_steps_of_a_wrapped_model(name: str, gpu: torch.device) -> None:
    losses = []
    for device in (CPU, gpu):
        trainer = wrapped_training.training(wrapped_models.wrapped_model(name), micro_rows=2, device=device)
        losses.append([trainer.run_step().loss for _ in range(2)])
    assert all_there(trainer.model)
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_a_checkpoint_comes_back_to_the_gpu(tmp_path: Path, gpu: torch.device) -> None:
    store = CheckpointStore(tmp_path)
    trainer = tiny.tiny_trainer(updates=lambda trainer: [ExponentialAverage(trainer.masters, 0.9)], device=gpu)
    tiny.run(trainer, 2)
    store.save(2, trainer.tensors(), trainer.state())
    store.wait()
    expected = [report.loss for report in tiny.run(trainer, 2)]
    again = tiny.tiny_trainer(updates=lambda trainer: [ExponentialAverage(trainer.masters, 0.9)], device=gpu)
    checkpoint = store.latest()
    assert checkpoint is not None
    again.restore(checkpoint.load, checkpoint.state)
    assert [report.loss for report in tiny.run(again, 2)] == expected


@pytest.fixture
def short_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps for the check that learns by heart; the compiler does not know the fake GPU."""
    monkeypatch.setattr("lavra.checks.learning._STEPS", 6)
    monkeypatch.setattr("lavra.checks.speed._graphs", lambda subject: None)


def ended(subject: Subject) -> list[str]:
    """Return what the checks say that could not be run or found something wrong; too few steps prove nothing."""
    results = run_checks(subject, FULL).results
    return [f"{one.name}: {one.measured}" for one in results if one.verdict == "fail" and one.name != "overfit"]


@pytest.mark.usefixtures("short_checks")
@pytest.mark.parametrize("style", check_subjects.STYLES)
def test_every_check_of_a_decoder_runs_on_the_gpu(style: str, laws: Prepared, gpu: torch.device) -> None:
    assert ended(check_subjects.decoder_subject(check_subjects.shrunk(style), laws, device=gpu)) == []


@pytest.mark.usefixtures("short_checks")
@pytest.mark.parametrize("name", WRAPPED)
def test_every_check_of_a_wrapped_model_runs_on_the_gpu(name: str, gpu: torch.device) -> None:
    model = wrapped_models.wrapped_model(name, noise=0.05)
    assert ended(wrapped_training.subject_of(model, learning_rate=1e-2, device=gpu)) == []

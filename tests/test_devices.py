"""Everything that learns on a GPU runs with its tensors there: nothing is drawn, made or indexed elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import check_contexts
import hf_models
import hf_training
import tiny_training as tiny
from edited_models import base_model
from fake_gpu import GPU, OnGPU, fake_gpu
from lavra.checks import labels
from lavra.checks.base import CheckContext
from lavra.checks.batches import only, with_targets
from lavra.checks.labels import check_labels
from lavra.checks.losses import check_first_loss
from lavra.checks.suite import FULL, run_checks
from lavra.config.transforms import AdapterConfig, TransformConfig
from lavra.data.packing import WindowSource
from lavra.data.token_store.ngram_counts import count_bigrams, count_trigrams
from lavra.data.token_store.prepare import Prepared
from lavra.models.native.bigram_init import init_from_bigrams, loss_by_bigrams
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.native.trigram_init import init_from_trigrams
from lavra.models.protocols import IGNORED, Batch
from lavra.models.transforms.apply import apply_transforms, merge_transforms
from lavra.objectives.causal import Causal
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.updates import Clip, ExponentialAverage, SnapshotAverage
from lavra.training.validation import Validation, likelihood_metrics

CPU = torch.device("cpu")
SHAPES: dict[str, dict[str, Any]] = {
    "rope, grouped, recall, pairs": {"ngram_copy": True, "bigram_embedding": 64},
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
    return check_contexts.corpus("laws", tmp_path_factory.mktemp("laws"))


def all_there(module: Any) -> bool:
    return all(isinstance(one, OnGPU) for one in [*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_steps_of_a_decoder_are_those_of_the_cpu(name: str, optimizer: Any, gpu: torch.device) -> None:
    spec = replace(tiny.SPEC, **SHAPES[name])
    losses: list[list[float]] = []
    for device in (CPU, gpu):
        trainer = tiny.tiny_trainer(
            spec=spec,
            optimizer=OptimizerOptions(optimizer),
            micro_batch_size=2,
            updates=lambda trainer: [
                ExponentialAverage(trainer.master_weights, 0.9),
                SnapshotAverage(trainer.master_weights, 0, 1),
                Clip(1.0),
            ],
            device=device,
        )
        losses.append([report.loss for report in tiny.run(trainer, 3)])
        with trainer.eval_mode():
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
        trainer = hf_training.training(hf_models.hf_model(name), micro_batch_size=2, device=device)
        losses.append([trainer.run_step().loss for _ in range(2)])
    assert all_there(trainer.model)
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_a_checkpoint_comes_back_to_the_gpu(tmp_path: Path, gpu: torch.device) -> None:
    store = CheckpointStore(tmp_path)
    trainer = tiny.tiny_trainer(updates=lambda trainer: [ExponentialAverage(trainer.master_weights, 0.9)], device=gpu)
    tiny.run(trainer, 2)
    store.save(2, trainer.tensors(), trainer.state())
    store.wait()
    expected = [report.loss for report in tiny.run(trainer, 2)]
    again = tiny.tiny_trainer(updates=lambda trainer: [ExponentialAverage(trainer.master_weights, 0.9)], device=gpu)
    checkpoint = store.latest()
    assert checkpoint is not None
    again.restore(checkpoint.load, checkpoint.state)
    assert [report.loss for report in tiny.run(again, 2)] == expected


def test_validation_with_averaged_weights(gpu: torch.device) -> None:
    trainer = tiny.tiny_trainer(updates=lambda trainer: [ExponentialAverage(trainer.master_weights, 0.9)], device=gpu)
    tiny.run(trainer, 1)
    validation = Validation(WindowSource(tiny.topics_store(), tiny.CONTEXT, 0), 4, likelihood_metrics(3.0))
    with trainer.eval_mode():
        assert validation.measure(trainer.model, Causal(tiny.CONTEXT), 2, gpu)["loss"] < 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_warm_start_from_counts(dtype: torch.dtype, gpu: torch.device) -> None:
    tokens = np.asarray(tiny.topics_store().tokens)
    losses = []
    for device in (CPU, gpu):
        model = build_decoder(replace(tiny.SPEC, bigram_embedding=64)).to(device)
        embedding, head = model.embedding.weight.detach(), model.output.weight.detach()
        bigrams = count_bigrams(tokens, tiny.SPEC.vocabulary)
        loss = init_from_bigrams(embedding, head, bigrams, 100, dtype)
        table = model.bigram_embedding.weight.detach()  # pyright: ignore[reportOptionalMemberAccess]
        trigrams = count_trigrams(tokens, tiny.SPEC.vocabulary, 64, 0)
        more = init_from_trigrams(table, embedding, head, trigrams, dtype)
        losses.append([loss, loss_by_bigrams(embedding, head, bigrams, dtype), *more])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# Weights in 8 or 4 bits are tensors of a kind of their own, of other libraries, which the fake GPU cannot hold.
EDITS: dict[str, dict[str, Any]] = {
    **{kind: {"adapter": AdapterConfig(kind=kind, rank=4)} for kind in ("lora", "dora", "ia3", "prefix")},
    "lora, saved head": {"adapter": AdapterConfig(kind="lora", rank=4, dropout=0.1, modules_to_save=("lm_head",))},
    "frozen": {"freeze": ("transformer.wte",)},
    "checkpointing": {"gradient_checkpointing": True},
    "vocabulary": {"vocabulary": 80},
}


@pytest.mark.parametrize("first", ["edited first", "moved first"])
@pytest.mark.parametrize("name", EDITS)
def test_edited_models_learn_and_fold(name: str, first: str, gpu: torch.device) -> None:
    model = base_model("gpt2")
    if first == "moved first":
        model.to(gpu)
    transforms = apply_transforms(model, TransformConfig(**EDITS[name]))
    trainer = hf_training.training(model, device=gpu)
    assert [trainer.run_step().loss < 7 for _ in range(2)] == [True, True]
    assert all_there(model)
    if "adapter" in EDITS[name] and name != "prefix":
        ids = torch.arange(5, 10, device=gpu)[None]
        assert merge_transforms(model, transforms, lambda model: model.head(model.features(Batch(ids, ids)))).holds


@pytest.fixture
def short_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps for the check that learns by heart; the compiler does not know the fake GPU."""
    monkeypatch.setattr("lavra.checks.learning._STEPS", 6)
    monkeypatch.setattr("lavra.checks.speed._graphs", lambda check_context: None)


def ended(check_context: CheckContext) -> list[str]:
    """Return what the checks say that could not be run or found something wrong; too few steps prove nothing."""
    results = run_checks(check_context, FULL).results
    return [f"{one.name}: {one.measured}" for one in results if one.verdict == "fail" and one.name != "overfit"]


@pytest.mark.usefixtures("short_checks")
@pytest.mark.parametrize("style", ["gpt2-124m", "tinyllama-1.1b", "lavra-9m"])
def test_every_check_of_a_decoder_runs_on_the_gpu(style: str, laws: Prepared, gpu: torch.device) -> None:
    assert ended(check_contexts.decoder_check_context(check_contexts.shrunk(style), laws, device=gpu)) == []


@pytest.mark.usefixtures("short_checks")
@pytest.mark.parametrize("name", WRAPPED)
def test_every_check_of_a_wrapped_model_runs_on_the_gpu(name: str, gpu: torch.device) -> None:
    model = hf_models.hf_model(name, noise=0.05)
    assert ended(hf_training.check_context_of(model, learning_rate=1e-2, device=gpu)) == []


def _drawn_elsewhere(shape: Any, number: int, *, std: float = 1.0) -> torch.Tensor:
    return torch.empty(tuple(shape), device=GPU).normal_(std=std, generator=torch.Generator().manual_seed(number))


FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "a generator": (labels, "fixed_normal", _drawn_elsewhere, "labels: it ended with RuntimeError: Expected a 'cuda'"),
    "a mask": (
        labels,
        "only",
        lambda batch, row, place: with_targets(batch, only(batch, row, place).targets.cpu() != IGNORED),
        "labels: it ended with RuntimeError: Expected all tensors to be on the same device",
    ),
    "an index": (
        Decoder,
        "_embed",
        lambda self, inputs, *_: self.embedding(inputs.cpu()),
        "first_loss: it ended with RuntimeError: Expected all tensors to be on the same device",
    ),
}


@pytest.mark.usefixtures("short_checks")
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(name: str, laws: Prepared, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    place, attribute, fault, told = FAULTS[name]
    check_context = check_contexts.decoder_check_context(check_contexts.shrunk("lavra-9m"), laws, device=gpu)
    monkeypatch.setattr(place, attribute, fault)
    results = run_checks(check_context, [(check_first_loss, 0.0), (check_labels, 0.0)]).results
    assert any(f"{one.name}: {one.measured}".startswith(told) for one in results)

"""Weights of targets: the loss is the sum of weight times negative log-likelihood, and ones are no weights at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import hf_models as tiny
from lavra.core.seeds import Streams
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives import cross_entropy as module
from lavra.objectives.base import Loss, Objective, loss_at_targets
from lavra.objectives.causal import Causal
from lavra.objectives.completion import Completion
from lavra.objectives.cross_entropy import summed_cross_entropy
from lavra.objectives.mlm import MaskedLM
from lavra.objectives.seq2seq import Seq2Seq
from lavra.training.acceleration.compiling import can_compile
from lavra.training.trainer import Trainer
from tiny_training import CONTEXT, SPEC, Capture, all_tensors, assert_same_bits, distance, lively, run, tiny_trainer

CPU = torch.device("cpu")
WAYS: dict[str, dict[str, Any]] = {"plain": {}, "smoothed": {"label_smoothing": 0.1}}
if can_compile(CPU):
    WAYS["compiled"] = {"compiled": True}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CPU_CHUNK_BYTES", 1)
    monkeypatch.setattr(module, "FEWEST_TOKENS", 64)


def case(ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features, head, targets and weights, of which some are 0."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 100, (150,), generator=generator)
    targets[torch.rand(150, generator=generator) < ignored] = IGNORED
    weights = torch.rand(150, generator=generator) * 2
    weights[torch.rand(150, generator=generator) < 0.2] = 0.0
    features, head = torch.randn(150, 16, generator=generator), torch.randn(128, 16, generator=generator)
    return features.requires_grad_(), head.requires_grad_(), targets, weights


def loss_and_gradients(weights: torch.Tensor | None, ignored: float, **options: Any) -> list[torch.Tensor]:
    features, head, targets, _ = case(ignored)
    loss = summed_cross_entropy(features, head, targets, weights=weights, vocabulary=100, **options)
    return [loss.detach(), *torch.autograd.grad(loss, (features, head))]


@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("way", WAYS)
def test_weights_of_one_are_no_weights_bit_for_bit(way: str, ignored: float):
    with_ones = loss_and_gradients(torch.ones(150), ignored, **WAYS[way])
    for one, other in zip(with_ones, loss_and_gradients(None, ignored, **WAYS[way]), strict=True):
        assert torch.equal(one, other)
    features, head, targets, _ = case(ignored)
    with torch.no_grad():
        measured = [summed_cross_entropy(features, head, targets, weights=one) for one in (torch.ones(150), None)]
    assert torch.equal(*measured)


@pytest.mark.parametrize("way", WAYS)
def test_weighted_loss_and_gradients_equal_those_of_autograd(way: str):
    found = loss_and_gradients(case()[3], 0.3, **WAYS[way])
    features, head, targets, weights = case()
    smoothing = WAYS[way].get("label_smoothing", 0.0)
    logits = F.linear(features.double(), head[:100].double())
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
    loss = (losses * weights).sum()
    for one, other in zip(found, [loss.detach(), *torch.autograd.grad(loss, (features, head))], strict=True):
        assert (one.double() - other.double()).norm() <= 1e-6 * other.double().norm()
    weightless = (weights == 0) | (targets == IGNORED)
    assert not found[1][weightless].any()
    assert found[1][~weightless].any(1).all()


def test_the_weight_of_a_batch_is_the_sum_of_its_targets_weights():
    targets = torch.tensor([[3, IGNORED, 4], [IGNORED, 5, 6]])
    batch = Batch(torch.zeros_like(targets), targets, weight=4.0)
    weighted = batch.weighted(torch.tensor([[0.5, 7.0, 0.0], [7.0, 0.25, 1.0]]))
    assert (weighted.weight, weighted.count, batch.weight, batch.count) == (1.75, 4, 4.0, 4)
    part = weighted.take(slice(1, 2)).to("cpu")
    assert (part.weight, part.count) == (1.25, 2)
    assert part.weights is not None
    assert part.weights.tolist() == [[7.0, 0.25, 1.0]]
    assert weighted.weighted(None).weight == 4.0
    assert replace(weighted, targets=torch.full_like(targets, 2)).count == 6


ENCODER = MaskedLM(48, mask_token=3, words=None)  # pyright: ignore[reportArgumentType]
OBJECTIVES: list[tuple[Any, str]] = [
    (Causal(48), "gpt2"),
    (Completion(48), "gpt2"),
    (ENCODER, "bert"),
    (Seq2Seq(48), "t5"),
]


@pytest.mark.parametrize(("objective", "name"), OBJECTIVES, ids=lambda value: type(value).__name__)
def test_every_objective_honours_them(objective: Any, name: str):
    model = tiny.shared_model(name)
    batch = tiny.packed(tiny.documents(model))
    weights = torch.rand(batch.targets.shape, generator=torch.Generator().manual_seed(1)) * 2
    with torch.no_grad():
        logits = model.head(model.features(batch))
        for smoothing in (0.0, 0.1):
            loss = replace(objective, label_smoothing=smoothing).loss(model, batch.weighted(weights))
            losses = F.cross_entropy(logits[0], batch.targets[0], reduction="none", label_smoothing=smoothing)
            assert float(loss.sum) == pytest.approx(float((losses * weights[0]).sum()), rel=1e-5)
            assert loss.weight == pytest.approx(float(weights[batch.targets != IGNORED].sum()))
        plain, ones = objective.loss(model, batch), objective.loss(model, batch.weighted(torch.ones_like(weights)))
        assert (float(plain.sum), plain.weight) == (float(ones.sum), ones.weight)


class Weighted:
    """The causal objective with weights of its targets, at all positions or only where there are some."""

    def __init__(self, weigh: Callable[[torch.Tensor], torch.Tensor], everywhere: bool) -> None:
        self.weigh, self.everywhere, self.inner = weigh, everywhere, Causal(CONTEXT)

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        batch = self.inner.encode(rows, streams, progress)
        return batch.weighted(self.weigh(batch.targets))

    def loss(self, model: Any, batch: Batch, *, learning: bool = True) -> Loss:
        return self.inner.loss(model, batch) if self.everywhere else loss_at_targets(model, batch, 0.0)


def captured(objective: Objective, **options: Any) -> tuple[Trainer, Capture]:
    capture = Capture()
    trainer = tiny_trainer(
        model=lively(SPEC), objective=objective, global_batch_size=8, updates=lambda _: [capture], **options
    )
    run(trainer)
    return trainer, capture


@pytest.mark.parametrize("everywhere", [True, False])
def test_ragged_weights_of_micro_batches_add_up(everywhere: bool):
    objective = Weighted(lambda targets: (targets % 4).clamp(min=0) * 0.5, everywhere)
    one, whole = captured(objective, micro_batch_size=8)
    other, parts = captured(objective, micro_batch_size=1)
    assert whole.weights == parts.weights
    assert one.targets == other.targets == captured(Causal(CONTEXT))[0].targets != sum(whole.weights)
    assert parts.losses[0] == pytest.approx(whole.losses[0], rel=1e-5)
    assert distance(parts.gradients[0], whole.gradients[0]) < 1e-5


def test_a_run_with_weights_of_one_is_the_run_without():
    (one, _), (other, _) = (
        captured(Weighted(lambda targets: torch.ones(targets.shape), True)),
        captured(Causal(CONTEXT)),
    )
    assert_same_bits(all_tensors(one), all_tensors(other))
    assert one.targets == other.targets


def test_a_step_whose_weights_are_all_zero_is_left_out():
    trainer, capture = captured(Weighted(lambda targets: torch.zeros(targets.shape), True))
    assert capture.losses == []
    assert trainer.targets == 0.0

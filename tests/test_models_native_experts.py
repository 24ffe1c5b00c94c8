"""A mixture of experts: one expert is a dense model, no token is dropped, and what balances it is what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.native.experts import Experts
from lavra.models.protocols import IGNORED, Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.base import loss_at_targets
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.flops import matrix_parameters
from lavra.planning.machine.memory import estimate_memory
from lavra.training.checkpoints.checkpoints import CheckpointStore
from tiny_training import (
    SPEC,
    Capture,
    all_tensors,
    assert_same_bits,
    distance,
    lively,
    run,
    tiny_trainer,
    topics_store,
)

DENSE = DecoderSpec(vocabulary=100, context=32, depth=2, width=32, heads=4, activation="swiglu", mlp_width=24)
MIXED = replace(DENSE, experts=4)


def tokens(rows: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(1, 100, (rows, length), generator=torch.Generator().manual_seed(rows))


def learned(model: Decoder, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of the summed loss of predicting the next token."""
    model.zero_grad()
    loss_at_targets(model, Batch(inputs, inputs.roll(-1, 1), weight=float(inputs.numel())), 0.0).sum.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def mixture_of(model: Decoder, block: int = 0) -> Experts:
    found = model.blocks[block].mlp
    assert isinstance(found, Experts)
    return found


def test_one_expert_is_a_dense_model_to_the_bit() -> None:
    dense, mixed = lively(DENSE), build_decoder(replace(DENSE, experts=1, experts_per_token=1))
    state = {name.replace(".mlp.", ".mlp.experts.0."): weight for name, weight in dense.state_dict().items()}
    assert all("router" in name for name in mixed.load_state_dict(state, strict=False).missing_keys)
    assert torch.equal(dense(tokens()), mixed(tokens()))
    ours, theirs = learned(mixed, tokens()), learned(dense, tokens())
    for name, gradient in theirs.items():
        assert torch.equal(ours[name.replace(".mlp.", ".mlp.experts.0.")], gradient), name


@pytest.mark.parametrize("options", [{}, {"expert_normalized": False}, {"shared_experts": 1}, {"experts_per_token": 3}])
def test_each_token_gets_the_weighted_sum_of_its_experts(options: dict[str, Any]) -> None:
    mixture = mixture_of(lively(replace(MIXED, **options)))
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = mixture(x)
        for row in range(2):
            for place in range(7):
                token = x[row, place]
                probabilities = mixture.router(token).softmax(-1)
                best = probabilities.topk(mixture.chosen)
                weights = best.values / best.values.sum() if mixture.normalized else best.values
                parts = zip(weights, best.indices.tolist(), strict=True)
                expected = sum(weight * mixture.experts[number](token) for weight, number in parts)
                expected = expected if mixture.shared is None else expected + mixture.shared(token)
                torch.testing.assert_close(found[row, place], expected, atol=1e-5, rtol=1e-4)


def test_all_tokens_may_choose_the_same_experts() -> None:
    mixture = mixture_of(lively(MIXED))
    with torch.no_grad():
        mixture.router.weight.zero_()
        mixture.router.weight[:2, 0] = 50.0
        x = torch.rand(2, 9, 32, generator=torch.Generator().manual_seed(0)) + 0.1
        found = mixture(x)
    expected = (mixture.experts[0](x) + mixture.experts[1](x)) / 2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_auxiliary_loss_is_that_of_each_sequence() -> None:
    """Its gradient is that of T · factor · Σ f P, which is written out here."""
    spec = replace(MIXED, depth=1)
    plain, balanced = lively(spec), lively(replace(spec, balance_loss=0.3))
    mixture, name = mixture_of(plain), "blocks.0.mlp.router.weight"
    caught: list[torch.Tensor] = []
    handle = mixture.router.register_forward_hook(lambda _module, _given, output: caught.append(output))
    plain(tokens())
    handle.remove()
    plain.zero_grad()
    probabilities = caught[0].softmax(-1)
    chosen = F.one_hot(probabilities.topk(2, -1).indices, 4).sum(-2).float()
    auxiliary = 12 * 0.3 * (chosen.mean(1) * 4 / 2 * probabilities.mean(1)).sum()
    (expected,) = torch.autograd.grad(auxiliary, mixture.router.weight)
    added = learned(balanced, tokens())[name] - learned(plain, tokens())[name]
    torch.testing.assert_close(added, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("options", [{"balance_loss": 0.3}, {"balance_bias": True}])
def test_micro_batches_add_up(options: dict[str, Any]) -> None:
    model = lively(replace(MIXED, **options))
    whole = learned(model, tokens())
    parts = [learned(model, tokens()[row : row + 1]) for row in range(3)]
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, sum(part[name] for part in parts), atol=1e-4, rtol=1e-3)


OPTIONS: list[dict[str, Any]] = [{"balance_loss": 0.3}, {"balance_bias": True}]


def _steps(spec: DecoderSpec, micro_batch_size: int = 4, **options: Any) -> Capture:
    capture = Capture()
    vocabulary = topics_store().manifest.vocabulary_size
    model = lively(replace(spec, vocabulary=vocabulary))
    trainer = tiny_trainer(model=model, micro_batch_size=micro_batch_size, updates=lambda _: [capture], **options)
    run(trainer, 1)
    return capture


@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_adds_up_its_micro_batches(options: dict[str, Any]) -> None:
    """The step divides the loss by the weight of all its targets, and what balances experts is divided with it."""
    spec = replace(SPEC, experts=4, **options)
    whole, parts = _steps(spec), _steps(spec, micro_batch_size=1)
    assert distance(parts.gradients[0], whole.gradients[0]) < 1e-5


@pytest.mark.parametrize("options", OPTIONS)
def test_what_balances_experts_is_a_mean_over_the_tokens_of_the_step(options: dict[str, Any]) -> None:
    spec = replace(SPEC, experts=4, depth=1)
    plain, balanced = _steps(spec), _steps(replace(spec, **options))
    name = "blocks.0.mlp." + ("balance_bias" if "balance_bias" in options else "router.weight")
    found = balanced.gradients[0][name] - plain.gradients[0].get(name, torch.tensor(0.0))
    model = lively(replace(spec, **options, vocabulary=topics_store().manifest.vocabulary_size))
    without = lively(replace(spec, vocabulary=topics_store().manifest.vocabulary_size))
    expected = torch.zeros_like(found)
    for batch in tiny_trainer(model=model).batches.micro_batches(0):
        for sign, each in ((1.0, model), (-1.0, without)):
            each.zero_grad()
            loss_at_targets(each, batch, 0.0).sum.backward()
            gradient = dict(each.named_parameters()).get(name)
            expected += sign * gradient.grad if gradient is not None and gradient.grad is not None else 0.0
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected / balanced.weights[0], atol=1e-6, rtol=1e-3)


def test_what_balances_experts_is_scaled_in_fp16_as_the_loss_is() -> None:
    spec = replace(SPEC, experts=4, balance_loss=0.3, balance_bias=True)
    exact, short = _steps(spec), _steps(spec, precision="fp16")
    assert distance(short.gradients[0], exact.gradients[0]) < 0.05


@pytest.mark.parametrize("options", OPTIONS)
def test_a_balanced_run_that_is_stopped_and_gone_on_was_never_stopped(options: dict[str, Any], tmp_path: Path) -> None:
    given: dict[str, Any] = {"spec": replace(SPEC, experts=4, **options), "steps": 4}
    straight, stopped = tiny_trainer(**given), tiny_trainer(**given)
    run(straight)
    run(stopped, 2)
    store = CheckpointStore(tmp_path)
    store.save(stopped.step, stopped.tensors(), stopped.state(), background=False)
    checkpoint = CheckpointStore(tmp_path).latest()
    assert checkpoint is not None
    again = tiny_trainer(**given)
    again.restore(checkpoint.load, checkpoint.state)
    run(again)
    assert_same_bits(all_tensors(again), all_tensors(straight))


@pytest.mark.parametrize("options", OPTIONS)
def test_padding_takes_no_part_in_the_balance(options: dict[str, Any]) -> None:
    model = lively(replace(MIXED, **options))

    def gradients(padding: int) -> dict[str, torch.Tensor]:
        model.zero_grad()
        inputs = F.pad(tokens(), (0, padding), value=7)
        targets = F.pad(tokens().roll(-1, 1), (0, padding), value=IGNORED)
        ids = F.pad(torch.zeros(3, 12, dtype=torch.int32), (0, padding), value=-1)
        loss_at_targets(model, Batch(inputs, targets, ids, weight=36.0), 0.0).sum.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    narrow, wide = gradients(0), gradients(9)
    for name, gradient in narrow.items():
        torch.testing.assert_close(wide[name], gradient, atol=1e-4, rtol=1e-3)


def test_the_balancing_bias_learns_from_the_number_of_tokens() -> None:
    model = lively(replace(MIXED, depth=1, balance_bias=True))
    mixture = mixture_of(model)
    assert mixture.balance_bias is not None
    with torch.no_grad():
        mixture.balance_bias.copy_(torch.tensor([1.0, 1.0, 0.0, -1.0]))  # the first two are always chosen
    gradient = learned(model, tokens())["blocks.0.mlp.balance_bias"]
    torch.testing.assert_close(gradient, 1e-3 * torch.tensor([18.0, 18.0, -18.0, -18.0]))
    with torch.no_grad():
        x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
        weights, numbers = mixture._choose(x)
        ours = mixture.router(x).softmax(-1).gather(-1, numbers)
        torch.testing.assert_close(weights, ours / ours.sum(-1, keepdim=True))  # the bias chooses, and weighs nothing


def _imbalance(model: Decoder, batches: list[Batch]) -> float:
    """Return how far the busiest expert is beyond an equal share on batches, as a share of it."""
    found: list[float] = []

    def count(module: Any, given: tuple[torch.Tensor, ...], _output: Any) -> None:
        numbers = module._choose(given[0])[1]
        found.append(float(torch.bincount(numbers.flatten(), minlength=4).max()) * 4 / numbers.numel() - 1)

    handles = [block.mlp.register_forward_hook(count) for block in model.blocks]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    with torch.no_grad():
        for batch in batches:
            model.features(batch)
    for handle in handles:
        handle.remove()
    return sum(found) / len(found)


def test_a_run_with_the_bias_is_better_balanced_than_one_without() -> None:
    spec = replace(SPEC, experts=4)
    trainers = [tiny_trainer(spec=replace(spec, balance_bias=bias), steps=40) for bias in (False, True)]
    for trainer in trainers:
        run(trainer)
    plain, balanced = (_imbalance(trainer.model, trainer.batches.micro_batches(0)) for trainer in trainers)  # pyright: ignore[reportArgumentType]
    assert balanced < 0.8 * plain


def test_flops_count_the_experts_of_a_token_and_memory_counts_all() -> None:
    assert matrix_parameters(MIXED) - matrix_parameters(DENSE) == 2 * (32 * 24 * 3 + 32 * 4)
    dense, mixed = (estimate_memory(DryRun(spec, 32), 2) for spec in (DENSE, MIXED))
    assert mixed.weights > dense.weights
    assert mixed.activations > dense.activations


@pytest.mark.parametrize(
    "options",
    [
        {"experts": 2, "experts_per_token": 3},
        {"experts": 4, "experts_per_token": 1},
        {"experts": 2, "balance_bias": True},
        {"balance_loss": 0.1},
        {"shared_experts": 1},
    ],
)
def test_experts_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"experts|expert"):
        replace(DENSE, **options)

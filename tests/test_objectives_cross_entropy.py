"""The chunked cross-entropy equals the ordinary one, value and gradient, and never holds all logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lavra.models.protocols import IGNORED
from lavra.objectives import cross_entropy as module
from lavra.objectives.cross_entropy import chunk_length, summed_cross_entropy, token_losses
from lavra.training.acceleration.compiling import can_compile

CPU = torch.device("cpu")


@dataclass
class Case:
    """Inputs of a loss; `vocabulary` rows of the weight are real."""

    features: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    targets: torch.Tensor
    vocabulary: int

    def to(self, dtype: torch.dtype) -> Case:
        bias = None if self.bias is None else self.bias.to(dtype).requires_grad_()
        features, weight = self.features.to(dtype).requires_grad_(), self.weight.to(dtype).requires_grad_()
        return Case(features, weight, bias, self.targets, self.vocabulary)

    def gradients(self) -> list[torch.Tensor]:
        parts = (self.features, self.weight, self.bias)
        found = [part.grad for part in parts if part is not None]
        assert all(gradient is not None for gradient in found)
        return found  # pyright: ignore[reportReturnType]


def case(tokens: int = 300, vocabulary: int = 150, bias: bool = True, ignored: float = 0.3, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    padded = -(-vocabulary // 64) * 64
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < ignored] = IGNORED
    return Case(
        torch.randn(tokens, 24, generator=generator),
        torch.randn(padded, 24, generator=generator) * 0.5,
        torch.randn(padded, generator=generator) if bias else None,
        targets,
        vocabulary,
    )


def ours(inputs: Case, **options: Any) -> torch.Tensor:
    return summed_cross_entropy(
        inputs.features, inputs.weight, inputs.targets, bias=inputs.bias, vocabulary=inputs.vocabulary, **options
    )


def ordinary(inputs: Case, smoothing: float = 0.0) -> torch.Tensor:
    real = slice(0, inputs.vocabulary)
    logits = F.linear(inputs.features, inputs.weight[real], None if inputs.bias is None else inputs.bias[real])
    return F.cross_entropy(logits, inputs.targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch):
    """Let a chunk be 64 tokens, so that every test goes over several, the last one shorter."""
    monkeypatch.setattr(module, "CPU_CHUNK_BYTES", 1)
    monkeypatch.setattr(module, "FEWEST_TOKENS", 64)
    assert chunk_length(192, CPU) == 64


def compare(dtype: torch.dtype, tolerance: float, smoothing: float = 0.0, compiled: bool = False, **shape: Any) -> None:
    """Compare loss and gradients, whose scale is that of a mean, with float64 autograd, relative to their norms."""
    found, expected = case(**shape).to(dtype), case(**shape).to(torch.float64)
    losses = ours(found, label_smoothing=smoothing, compiled=compiled), ordinary(expected, smoothing)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=tolerance)
    for loss in losses:
        (loss * 0.01).backward()
    for ours_gradient, gradient in zip(found.gradients(), expected.gradients(), strict=True):
        assert ours_gradient.dtype == dtype
        assert (ours_gradient.double() - gradient).norm() <= tolerance * gradient.norm()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_loss_and_gradients_equal_those_of_autograd(dtype: torch.dtype, tolerance: float, bias: bool, smoothing: float):
    compare(dtype, tolerance, smoothing, bias=bias)


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 200),
    vocabulary=st.integers(2, 200),
    ignored=st.sampled_from([0.0, 0.5]),
    smoothing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_any_shape_equals_autograd(tokens: int, vocabulary: int, ignored: float, smoothing: float, seed: int):
    compare(torch.float64, 1e-12, smoothing, tokens=tokens, vocabulary=vocabulary, ignored=ignored, seed=seed)


def test_bf16_is_as_good_as_its_inputs():
    compare(torch.bfloat16, 2e-2)


@pytest.mark.skipif(not can_compile(CPU), reason="there is no C++ compiler")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_compiled_loss_is_the_same(dtype: torch.dtype, tolerance: float):
    compare(dtype, tolerance, compiled=True)
    assert module._compiled.cache_info().currsize == 1


def test_with_smoothing_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_compiled", None)
    compare(torch.float32, 1e-6, smoothing=0.1, compiled=True)


def test_padding_rows_of_the_weight_have_no_probability_and_no_gradient():
    inputs = case().to(torch.float32)
    with torch.no_grad():
        inputs.weight[inputs.vocabulary :] = 100.0
    ours(inputs).backward()
    assert inputs.weight.grad is not None
    assert not inputs.weight.grad[inputs.vocabulary :].any()
    compare(torch.float64, 1e-13)


def test_smoothing_zero_is_the_identity_bit_for_bit():
    without, neutral = case().to(torch.float32), case().to(torch.float32)
    losses = ours(without), ours(neutral, label_smoothing=0.0)
    assert losses[0].item() == losses[1].item()
    for loss in losses:
        loss.backward()
    for left, right in zip(without.gradients(), neutral.gradients(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("compiled", [False, True] if can_compile(CPU) else [False])
def test_bent_logits_have_the_loss_and_the_gradients_of_autograd(compiled: bool):
    given, other = case().to(torch.float64), case().to(torch.float64)
    loss = ours(given, cap=2.0, compiled=compiled)
    loss.backward()
    logits = F.linear(other.features, other.weight, other.bias)[:, : other.vocabulary]
    expected = F.cross_entropy(2.0 * torch.tanh(logits / 2.0), other.targets, ignore_index=IGNORED, reduction="sum")
    expected.backward()
    assert torch.allclose(loss, expected)
    for one, another in zip(given.gradients(), other.gradients(), strict=True):
        assert torch.allclose(one, another, atol=1e-12)
    measured = token_losses(
        given.features, given.weight, given.targets, bias=given.bias, vocabulary=given.vocabulary, cap=2.0
    )
    assert torch.allclose(measured.sum(), expected.detach())


def test_nothing_to_learn_is_zero():
    inputs = case(ignored=1.1).to(torch.float32)
    assert (inputs.targets == IGNORED).all()
    loss = ours(inputs)
    assert loss.item() == 0.0
    loss.backward()
    assert not any(gradient.any() for gradient in inputs.gradients())


def test_the_losses_of_tokens_add_up_to_the_sum_and_need_no_gradient():
    inputs = case().to(torch.float64)
    losses = token_losses(
        inputs.features, inputs.weight, inputs.targets, bias=inputs.bias, vocabulary=inputs.vocabulary
    )
    assert not losses.requires_grad
    assert not losses[inputs.targets == IGNORED].any()
    assert losses.sum().item() == pytest.approx(ordinary(inputs).item(), rel=1e-13)
    with torch.no_grad():
        assert ours(inputs).item() == losses.sum().item()
        assert ours(inputs, label_smoothing=0.2).item() == pytest.approx(ordinary(inputs, 0.2).item(), rel=1e-13)
    empty = token_losses(inputs.features[:0], inputs.weight, inputs.targets[:0])
    assert empty.shape == (0,)


class LargestTensor(TorchDispatchMode):
    """Watches every operation for the largest tensor that it makes."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return made


@pytest.mark.parametrize("learning", [True, False])
def test_the_logits_of_a_batch_never_exist_at_once(learning: bool):
    inputs = case(tokens=3000)
    if learning:
        inputs = inputs.to(torch.float32)
    with LargestTensor() as largest:
        loss = ours(inputs)
        if learning:
            loss.backward()
    assert 64 * len(inputs.weight) <= largest.elements <= inputs.features.numel() < 3000 * inputs.vocabulary / 6


def test_measuring_costs_no_gradient(monkeypatch: pytest.MonkeyPatch):
    """Features and weights that are cut off from the graph are not differentiated, even while gradients are on."""
    monkeypatch.setattr(module, "_loss_and_gradient", lambda *_: pytest.fail("a gradient was computed"))
    ours(case())


def test_the_chunk_fits_its_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    for vocabulary in (256, 8192, 50304):
        length = chunk_length(vocabulary, CPU)
        assert 256 <= length <= max(256, 16 * 2**20 / (4 * vocabulary))
    assert chunk_length(10**7, CPU) == 256
    assert chunk_length(128256, torch.device("cuda")) * 128256 * 4 <= 512 * 2**20

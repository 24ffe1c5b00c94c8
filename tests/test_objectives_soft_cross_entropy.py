"""The chunked loss against soft targets equals the plain one, and no logits of all tokens are ever held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lavra.objectives import cross_entropy as module
from lavra.objectives.cross_entropy import summed_cross_entropy
from lavra.objectives.soft_cross_entropy import Divergence, summed_soft_cross_entropy, teacher_probabilities
from test_objectives_cross_entropy import LargestTensor


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch):
    """Let a chunk be 64 tokens, so that every test goes over several, the last one shorter."""
    monkeypatch.setattr(module, "CPU_CHUNK_BYTES", 1)
    monkeypatch.setattr(module, "FEWEST_TOKENS", 64)


class Case:
    """Pupil and teacher of random weights, in float64 unless another type is asked for."""

    def __init__(self, tokens: int = 150, vocabulary: int = 90, seed: int = 0, dtype: torch.dtype = torch.float64):
        generator = torch.Generator().manual_seed(seed)
        padded = -(-vocabulary // 64) * 64

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.vocabulary = vocabulary
        self.features, self.weight, self.bias = (drawn(tokens, 16), drawn(padded, 16), drawn(padded))
        for part in self.pupil:
            part.requires_grad_()
        self.teacher = drawn(tokens, 24), drawn(padded, 24), drawn(padded)
        self.probabilities = torch.softmax(drawn(tokens, vocabulary), -1)
        self.weights = torch.rand(tokens, generator=generator)

    @property
    def pupil(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.features, self.weight, self.bias

    def logits(self) -> torch.Tensor:
        return F.linear(self.features, self.weight, self.bias)[:, : self.vocabulary]

    def found(self, targets: Any, **options: Any) -> list[torch.Tensor]:
        loss = summed_soft_cross_entropy(
            self.features, self.weight, targets, bias=self.bias, vocabulary=self.vocabulary, **options
        )
        return [loss.detach(), *torch.autograd.grad(loss * 0.5, self.pupil)]

    def expected(self, loss: torch.Tensor) -> list[torch.Tensor]:
        return [loss.detach(), *torch.autograd.grad(loss * 0.5, self.pupil)]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-12) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * max(1.0, float(other.norm()))


def reference(logits: torch.Tensor, targets: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    """Return the loss of each token by the functions of torch."""
    if divergence == "cross-entropy":
        return F.cross_entropy(logits, targets, reduction="none")
    return F.kl_div(F.log_softmax(logits, -1), targets, reduction="none").sum(-1)


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 200),
    vocabulary=st.integers(2, 100),
    divergence=st.sampled_from(["cross-entropy", "kl"]),
    temperature=st.sampled_from([1.0, 0.5, 3.0]),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_given_probabilities(
    tokens: int, vocabulary: int, divergence: Divergence, temperature: float, weighted: bool, seed: int
):
    case = Case(tokens, vocabulary, seed)
    weights = case.weights if weighted else None
    found = case.found(case.probabilities, divergence=divergence, temperature=temperature, weights=weights)
    losses = reference(case.logits() / temperature, case.probabilities, divergence) * temperature**2
    assert_close(found, case.expected((losses * case.weights).sum() if weighted else losses.sum()))


@pytest.mark.parametrize("divergence", ["cross-entropy", "kl"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_a_teachers_features_and_head(divergence: Divergence, temperature: float, cap: float | None):
    case = Case()
    features, weight, bias = case.teacher
    teach = teacher_probabilities(
        features, weight, bias=bias, vocabulary=case.vocabulary, temperature=temperature, cap=cap
    )
    found = case.found(teach, divergence=divergence, temperature=temperature, cap=cap)
    theirs, ours = F.linear(features, weight, bias)[:, : case.vocabulary], case.logits()
    if cap is not None:
        theirs, ours = cap * torch.tanh(theirs / cap), cap * torch.tanh(ours / cap)
    targets = torch.softmax(theirs / temperature, -1)
    assert_close(found, case.expected(reference(ours / temperature, targets, divergence).sum() * temperature**2))


def test_one_certain_class_a_token_is_the_loss_of_hard_targets():
    case = Case(dtype=torch.float32)
    hard = torch.randint(0, case.vocabulary, (150,), generator=torch.Generator().manual_seed(4))
    for weights in (None, case.weights):
        loss = summed_cross_entropy(
            case.features, case.weight, hard, bias=case.bias, vocabulary=case.vocabulary, weights=weights
        )
        expected, one_hot = case.expected(loss), F.one_hot(hard, case.vocabulary).float()
        for divergence in ("cross-entropy", "kl"):
            assert_close(case.found(one_hot, weights=weights, divergence=divergence), expected, 1e-6)


def test_a_pupil_that_is_its_teacher_has_nothing_to_learn():
    case = Case()
    teach = teacher_probabilities(case.features, case.weight, bias=case.bias, vocabulary=case.vocabulary)
    loss, *gradients = case.found(teach, divergence="kl")
    assert abs(float(loss)) < 1e-10
    assert all(float(gradient.abs().max()) < 1e-10 for gradient in gradients)


def test_a_mean_of_teachers_is_a_function_of_functions():
    case = Case()
    one = teacher_probabilities(*case.teacher[:2], vocabulary=case.vocabulary)
    found = case.found(lambda part: (one(part) + case.probabilities[part]) / 2)
    assert_close(found, case.found((one(slice(None)) + case.probabilities) / 2))


def test_weights_of_one_move_no_bit_and_what_has_weight_zero_is_not_learned():
    case = Case(dtype=torch.float32)
    for one, other in zip(
        case.found(case.probabilities, weights=torch.ones(150)), case.found(case.probabilities), strict=True
    ):
        assert torch.equal(one, other)
    case.weights[:70] = 0.0
    assert not case.found(case.probabilities, weights=case.weights)[1][:70].any()


def test_bf16_is_as_good_as_its_inputs():
    found, exact = (
        case.found(case.probabilities.to(torch.float32))
        for case in (Case(dtype=torch.bfloat16), Case(dtype=torch.float64))
    )
    for one, other in zip(found, exact, strict=True):
        assert (one.double() - other.double()).norm() <= 2e-2 * other.double().norm()


@pytest.mark.parametrize("learning", [True, False])
def test_neither_logits_exist_at_once(learning: bool):
    case = Case(tokens=3000)
    features, weight, bias = case.teacher
    with LargestTensor() as largest, torch.set_grad_enabled(learning):
        teach = teacher_probabilities(features, weight, bias=bias, vocabulary=case.vocabulary, temperature=2.0)
        loss = summed_soft_cross_entropy(
            case.features, case.weight, teach, bias=case.bias, vocabulary=case.vocabulary, temperature=2.0
        )
        if learning:
            loss.backward()
    assert 64 * case.vocabulary <= largest.elements <= features.numel() < 3000 * case.vocabulary / 3


def test_a_temperature_is_above_zero():
    with pytest.raises(ValueError, match="not above 0"):
        summed_soft_cross_entropy(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, 3), temperature=0.0)

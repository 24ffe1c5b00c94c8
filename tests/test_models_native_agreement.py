"""Telling a wrong fast way from one that rounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.models.native.agreement import Reference


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed))


def reference(exact: torch.Tensor, **others: torch.Tensor) -> Reference:
    found = {"a product": exact, **others}
    return Reference(found, {name: part.bfloat16() for name, part in found.items()}, torch.bfloat16)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e4]))
def test_rounding_is_no_fault(seed: int, size: float):
    exact = drawn(64, 64, seed=seed) * size
    assert reference(exact).disagreement({"a product": exact.bfloat16()}) is None


@pytest.mark.parametrize("share", [1e-2, 1.0])
def test_a_few_wrong_rows_are_found(share: float):
    exact = drawn(64, 64)
    wrong = exact.bfloat16().clone()
    wrong[3] *= 1 + 30 * share
    assert "a product is" in (reference(exact).disagreement({"a product": wrong}) or "")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_found(value: float):
    exact = drawn(8, 8)
    wrong = exact.clone()
    wrong[0, 0] = value
    assert reference(exact).disagreement({"a product": wrong}) == "a product is not finite"


def test_noise_around_zero_is_no_fault():
    exact, nothing = drawn(64, 64), torch.zeros(16)
    judge = reference(exact, bias=nothing)
    assert judge.disagreement({"a product": exact, "bias": drawn(16) * 1e-4}) is None
    assert judge.disagreement({"a product": exact, "bias": drawn(16)}) is not None


def test_tensors_of_one_kind_share_the_largest_rounding_of_their_blocks():
    exact = {f"blocks.{number}.norm.weight": drawn(64, seed=number) for number in range(3)}
    plain = {
        name: tensor + 0.02 * drawn(64, seed=9) * (number == 1) for number, (name, tensor) in enumerate(exact.items())
    }
    judge = Reference(exact, plain, torch.bfloat16)
    for size, right in ((0.03, True), (0.2, False)):
        fast = {name: tensor + size * drawn(64, seed=8) for name, tensor in exact.items()}
        assert (judge.disagreement(fast) is None) == right


def test_another_shape_and_a_missing_result_are_told():
    judge = reference(drawn(4, 4))
    assert judge.disagreement({}) == "a product is missing"
    assert judge.disagreement({"a product": drawn(4)}) == "a product has the shape (4,) instead of (4, 4)"


def test_where_the_plain_way_is_not_finite_it_is_no_measure():
    exact = drawn(4, 4)
    judge = Reference({"x": exact}, {"x": exact / 0}, torch.float16)
    assert judge.disagreement({"x": exact * 5}) is None


def test_where_all_is_exactly_zero_the_rounding_of_the_plain_way_is_allowed():
    """The branches of a fresh model begin at zero; a kernel that gives nearly that is not wrong."""
    exact, plain = {"output": torch.zeros(16)}, {"output": torch.full((16,), 1e-4)}
    assert Reference(exact, plain, torch.float32).disagreement({"output": torch.full((16,), 1.5e-4)}) is None

"""Attention by products: the same result and gradients as the plain way, for every mask, and where it is taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.models.native import attention, attention_products
from lavra.models.native.attention import attend, attend_plainly, choose_way, wrong_way
from lavra.models.native.attention_masks import Mask, attention_mask
from lavra.models.native.attention_products import attend_by_products, suit


def parts(
    rows: int, heads: int, groups: int, length: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values as a block of a decoder makes them: the heads of a position lie together."""
    generator = torch.Generator().manual_seed(rows * 1000 + length)
    made = (torch.randn(rows, length, count, 8, generator=generator, dtype=dtype) for count in (heads, groups, groups))
    queries, keys, values = (part.transpose(1, 2).requires_grad_() for part in made)
    return queries, keys, values


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 3),
    shared=st.integers(1, 3),
    groups=st.integers(1, 2),
    length=st.integers(2, 13),
    documents=st.integers(0, 3),
    window=st.sampled_from([0, 3]),
    causal=st.booleans(),
)
def test_products_and_their_gradients_are_those_of_the_plain_way(
    rows: int, shared: int, groups: int, length: int, documents: int, window: int, causal: bool
):
    given_parts = parts(rows, shared * groups, groups, length)
    ids = None if not documents else (torch.arange(length) * documents // length).expand(rows, -1)
    mask = attention_mask(ids, length, None, causal=causal, window=window)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_products, "_STRIPE", 4)
        for way in (attend_plainly, attend_by_products):
            mixed = way(*given_parts, mask)
            direction = torch.arange(mixed.numel(), dtype=mixed.dtype).view(mixed.shape).sin()
            results.append([mixed, *torch.autograd.grad(mixed, given_parts, direction)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)  # keys and values add up in fp32


def test_the_heads_of_a_position_lie_together_in_the_result():
    mixed = attend_by_products(*parts(2, 4, 2, 6), Mask())
    assert mixed.transpose(1, 2).is_contiguous()


def test_products_are_taken_for_whole_texts_in_bf16_on_a_processor_without_matrix_tiles(
    monkeypatch: pytest.MonkeyPatch,
):
    queries, keys, values = parts(2, 4, 2, 6, torch.bfloat16)
    monkeypatch.setattr(attention, "_distrusted", frozenset[str]())
    monkeypatch.setattr(attention_products, "_has_matrix_tiles", lambda: False)
    assert choose_way(queries, keys, Mask()) == "products"
    assert choose_way(queries, keys, Mask(), dropout=0.1) == "causal"
    assert choose_way(queries.float(), keys.float(), Mask()) == "causal"
    assert choose_way(queries[:, :, :1], keys, Mask()) != "products"
    assert not suit(queries, keys, Mask(bias=torch.zeros(4, 6, 6)))
    attention.distrust("products")
    assert choose_way(queries, keys, Mask()) == "causal"
    attention.trust_again()
    monkeypatch.setattr(attention_products, "_has_matrix_tiles", lambda: True)
    assert choose_way(queries, keys, Mask()) == "causal"
    assert attend(queries, keys, values, Mask()).dtype == torch.bfloat16


@pytest.mark.parametrize("causal", [True, False])
def test_products_are_right_in_bf16(causal: bool):
    queries, keys, values = parts(2, 4, 2, 40, torch.bfloat16)
    assert wrong_way("products", queries, keys, values, Mask(causal=causal)) is None

"""Attention of wrapped models learns in fp32 on a processor, and everything else is as transformers computes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lavra.models.hf import attention
from lavra.models.hf.kinds import Kind
from lavra.models.hf.model import HFModel
from lavra.models.protocols import Batch

pytestmark = pytest.mark.skipif(torch.cpu._is_amx_tile_supported(), reason="with AMX attention stays in bf16")


def tiny(dtype: torch.dtype, kind: Kind = "encoder") -> HFModel:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model: Any = BertForMaskedLM(config)
    return HFModel(model.to(dtype), kind)


def batch() -> Batch:
    inputs = torch.arange(48).reshape(2, 24) % 64
    documents = torch.tensor([[0] * 10 + [1] * 14, [0] * 20 + [-1] * 4], dtype=torch.int32)
    positions = torch.cat([torch.arange(10), torch.arange(14), torch.arange(20), torch.zeros(4)]).long().reshape(2, 24)
    return Batch(inputs, inputs, documents, positions, weight=1.0)


def seen_types(monkeypatch: pytest.MonkeyPatch, model: HFModel, *, learning: bool) -> set[torch.dtype]:
    seen: set[torch.dtype] = set()
    usual = torch.nn.functional.scaled_dot_product_attention

    def watched(query: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        seen.add(query.dtype)
        return usual(query, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    with torch.set_grad_enabled(learning):
        model.features(batch())
    return seen


def test_bf16_learns_through_attention_in_fp32_and_measures_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(torch.bfloat16).train()
    assert seen_types(monkeypatch, model, learning=True) == {torch.float32}
    assert seen_types(monkeypatch, model, learning=False) == {torch.bfloat16}
    assert seen_types(monkeypatch, tiny(torch.float32), learning=True) == {torch.float32}


def gradients(model: HFModel) -> torch.Tensor:
    features = model.features(batch())
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    padding = torch.tensor([[False] * 24, [False] * 20 + [True] * 4])
    (features.float() * weights).masked_fill(padding[..., None], 0.0).sum().backward()
    names = ("query.weight", "key.weight", "value.weight")
    found = [one.grad for name, one in model.named_parameters() if name.endswith(names) and one.grad is not None]
    return torch.cat([one.flatten().float() for one in found])


def test_its_gradients_are_nearer_to_fp32_than_those_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gradients(tiny(torch.float32))
    ours = gradients(tiny(torch.bfloat16))
    monkeypatch.setattr(attention, "learns_in_fp32", lambda query: False)
    usual = gradients(tiny(torch.bfloat16))
    assert not torch.equal(ours, usual)
    assert (ours - exact).norm() <= 1.05 * (usual - exact).norm()
    assert (ours - exact).norm() < 0.05 * exact.norm()

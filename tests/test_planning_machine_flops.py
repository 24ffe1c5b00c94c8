"""The count of operations against torch's own counter, on the meta device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lavra.models.native.decoder import Decoder
from lavra.models.presets import PRESETS
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.causal import Causal
from lavra.planning.machine.flops import matrix_parameters, training_flops_per_token

BASE = DecoderSpec(vocabulary=500, context=48, depth=3, width=64, heads=4)
ROWS = 3


def counted(spec: DecoderSpec, length: int) -> float:
    """Operations per token of a real forward and backward pass."""
    with torch.device("meta"):
        model = Decoder(spec)
        ids = torch.zeros(ROWS, length, dtype=torch.long)
        batch = Batch(ids, ids, document_ids=torch.zeros(ROWS, length, dtype=torch.int32), weight=float(ROWS * length))
    with FlopCounterMode(display=False) as counter:
        Causal(length).loss(model, batch).sum.backward()
    return counter.get_total_flops() / (ROWS * length)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kv_heads": 2},
        {"kv_heads": 1, "head_width": 24},
        {"activation": "swiglu"},
        {"activation": "gelu", "mlp_bias": True, "attention_bias": True, "norm_weight": True},
        {"parallel": True, "tied": True, "positions": "learned"},
        {"embedding_width": 32},
    ],
)
@pytest.mark.parametrize("length", [48, 16])
def test_the_formula_is_what_torch_counts(fields: dict[str, Any], length: int):
    spec = replace(BASE, **fields)
    assert training_flops_per_token(spec, length) == counted(spec, length)


def test_the_length_is_the_context_if_none_is_given():
    assert training_flops_per_token(BASE) == training_flops_per_token(BASE, BASE.context)


@pytest.mark.parametrize("name", ["gpt2-124m", "llama3-8b", "lavra-9m"])
def test_matrix_parameters_are_those_of_the_model(name: str):
    spec = PRESETS[name]
    with torch.device("meta"):
        model = Decoder(spec)
    weights = [weight for path, weight in model.named_parameters() if weight.dim() == 2 and "embedding" not in path]
    head = model.embedding.weight.numel() if spec.tied else 0
    assert matrix_parameters(spec) == sum(weight.numel() for weight in weights) + head

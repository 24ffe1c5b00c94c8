"""One token at a time computes what the blocks compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lavra.models.native.building import build_decoder
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec

TINY = {"vocabulary": 97, "context": 24, "depth": 2, "width": 32, "heads": 4, "kv_heads": None, "mlp_width": None}
SPECS = {
    "ours": DecoderSpec(vocabulary=97, context=24, depth=2, width=32, heads=4, kv_heads=2),
    "gpt2": replace(PRESETS["gpt2-124m"], **TINY),
    "opt": replace(PRESETS["opt-125m"], **TINY),
    "norms after": replace(PRESETS["opt-125m"], **TINY, norm_placement="after"),
    "parallel": replace(PRESETS["pythia-70m"], **TINY),
    "gated": replace(PRESETS["tinyllama-1.1b"], **{**TINY, "kv_heads": 2}),
    "pairs": DecoderSpec(vocabulary=97, context=24, depth=2, width=32, heads=4, bigram_embedding=50),
    "recall": DecoderSpec(vocabulary=97, context=24, depth=2, width=32, heads=4, ngram_copy=True),
    "alibi": replace(PRESETS["gpt2-124m"], **TINY, positions="alibi"),
}


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_step_is_what_its_blocks_are(name: str, dtype: torch.dtype) -> None:
    model = build_decoder(SPECS[name]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3, generator=torch.Generator().manual_seed(1))
        parameter.data = parameter.data.to(dtype)
    ids = torch.randint(97, (3, 12), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones(3, 4, dtype=torch.bool)
    attention_mask[1, :2] = name == "gpt2"  # without padding there, so that no mask is needed
    found = []
    for stepwise in (True, False):
        cache = model.new_cache(3, 24)
        features = [model.step(ids[:, :4], cache, attention_mask)]
        assert cache.steps is not None
        cache.steps = cache.steps if stepwise else list(model.blocks)  # pyright: ignore[reportAttributeAccessIssue]
        features += [model.step(ids[:, place : place + 1], cache) for place in range(4, 12)]
        found.append(torch.cat(features, 1))
    exact = dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], rtol=0 if exact else 2e-2, atol=0 if exact else 2e-2)


@torch.no_grad()
def test_steps_follow_weights_that_are_changed() -> None:
    model = build_decoder(SPECS["ours"]).eval()
    first, ids = model.new_cache(1, 8), torch.tensor([[5]])
    before = model.step(ids, first)
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5 + 0.01
    torch.testing.assert_close(model.step(ids, model.new_cache(1, 8)), model(ids))
    assert not torch.allclose(model(ids), before)

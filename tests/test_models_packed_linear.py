"""Weights in the processor's own layout: the same bits as without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lavra.models.native.building import build_decoder
from lavra.models.native.low_precision import PackedLinear, can_pack, pack_weights
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_pack(CPU, torch.bfloat16), reason="this build of torch packs no weights")


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(64, 32, True), (128, 17, False)])
def test_a_layer_gives_what_it_gave(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias).bfloat16()
    x = torch.randn(2, rows, inputs).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(layer)(x), layer(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("spec", [PRESETS["gpt2-124m"], DecoderSpec(vocabulary=300)])
def test_a_model_reads_on_as_before(spec: DecoderSpec) -> None:
    model = build_decoder(replace(spec, vocabulary=300, context=32, depth=2, width=64, heads=2)).eval().bfloat16()
    ids = torch.randint(300, (3, 9), generator=torch.Generator().manual_seed(1))

    def logits() -> torch.Tensor:
        cache = model.new_cache(3, 16)
        features = [model.step(ids[:, :5], cache), *(model.step(ids[:, place, None], cache) for place in range(5, 9))]
        return model.head(torch.cat(features, 1)).float()

    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
        before = logits()
        pack_weights(model)
        assert not any(isinstance(module, nn.Linear) for module in model.modules())
        torch.testing.assert_close(logits(), before, rtol=2e-2, atol=2e-2)


def test_only_bfloat16_on_a_cpu_is_packed() -> None:
    assert not can_pack(CPU, torch.float32)
    assert not can_pack(torch.device("meta"), torch.bfloat16)

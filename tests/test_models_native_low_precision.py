"""Weights in eight bits: the rounding is what it is said to be, and a model of them is nearly the same model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.models.native.building import build_decoder
from lavra.models.native.low_precision import Int8Linear, round_weights
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec


@pytest.mark.parametrize("rows", [1, 4, 5])
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(64, 32, True), (128, 17, False), (172, 512, True)])
def test_a_layer_multiplies_by_its_rounded_weights(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias)
    rounded = Int8Linear(layer)
    weight = rounded.codes.double() * rounded.scales.double()[:, None]
    largest = layer.weight.detach().abs().amax(1, keepdim=True)
    assert ((weight - layer.weight).abs() <= largest * (0.5 / 127 + 2**-8)).all()
    x = torch.randn(rows, inputs).bfloat16()
    expected = x.double() @ weight.T + (0 if rounded.bias is None else rounded.bias.double())
    torch.testing.assert_close(rounded(x).double(), expected, rtol=2e-2, atol=2e-2)
    assert rounded(x.view(1, rows, inputs)).shape == (1, rows, outputs)


@pytest.mark.parametrize("spec", [PRESETS["gpt2-124m"], DecoderSpec(vocabulary=300)])
def test_a_model_stays_nearly_the_same(spec: DecoderSpec) -> None:
    model = build_decoder(replace(spec, vocabulary=300, context=32, depth=2, width=64, heads=2)).eval()
    ids = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
        before = model.head(model(ids)).log_softmax(-1)
        round_weights(model)
        after = model.head(model(ids)).float().log_softmax(-1)
    assert after.shape == before.shape
    assert float((after - before).abs().mean()) < 0.05
    assert all(not isinstance(module, nn.Linear) for module in model.modules())


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(InputError, match="Embedding has no linear layers"):
        round_weights(nn.Embedding(3, 4))

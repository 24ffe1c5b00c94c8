"""Linear layers of wrapped models for use on a processor: packed, and with the GELU after them in one pass."""

from __future__ import annotations

from torch import nn

from lavra.models.native.low_precision import PackedLinear, pack_weights

_GELU = "GELUActivation"
"""Name of the class of `transformers` for GELU by the error function."""


def pack_body(body: nn.Module) -> int:
    """Pack the linear layers of a model in bfloat16 on a CPU, and return with how many of them a GELU was fused.

    BERT, RoBERTa and their kin keep the layer and the function in one module (`dense`, `intermediate_act_fn`). The
    model can then be used but neither trained nor saved.

    Args:
        body: The model without its language-model head, to change in place.
    """
    fused = 0
    for module in list(body.modules()):
        layer, function = getattr(module, "dense", None), getattr(module, "intermediate_act_fn", None)
        if isinstance(layer, nn.Linear) and type(function).__name__ == _GELU:
            module.dense, module.intermediate_act_fn = PackedLinear(layer, gelu=True), nn.Identity()
            fused += 1
    pack_weights(body)
    return fused

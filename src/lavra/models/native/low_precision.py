"""Weights for using a model: in eight bits, a quarter of the bytes per token, or laid out as matrix kernels read
them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.native.decoder import Decoder

FEW_ROWS = 4
"""Up to this many rows the kernel that reads the small weights is quicker than making large ones of them."""

_WHOLE = 64
"""The kernel reads beyond the end of rows of weights that are no multiple of its width."""


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8, with a scale for each output channel; products are in bfloat16.

    Only the weights are rounded (symmetrically, to 127 steps on either side of zero), so that what a row gives does
    not depend on the rows beside it.

    Args:
        layer: what to round.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.register_buffer("codes", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales.to(torch.bfloat16))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().to(torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (…, inputs) to (…, outputs), in bfloat16."""
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        if len(flat) <= FEW_ROWS and flat.device.type == "cpu" and not flat.shape[1] % _WHOLE:
            product = torch._weight_int8pack_mm(flat, self.codes, self.scales)
        else:
            product = F.linear(flat, self.codes.to(torch.bfloat16)) * self.scales
        product = product.view(*x.shape[:-1], -1)
        return product if self.bias is None else product + self.bias


def replace_linear_layers(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> int:
    """Put what `make` makes of each linear layer in its place, and return how many there were."""
    if isinstance(model, Decoder):
        model.keep_head_rows()
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    for parent, name, child in layers:
        setattr(parent, name, make(child))
    return len(layers)


def round_weights(model: nn.Module) -> None:
    """Turn the linear layers of a model into `Int8Linear`, and what else it has into bfloat16.

    The model can then be used, and not be trained. An embedding keeps its bfloat16 weights, also where the head is tied
    to it: the head becomes a layer of its own.

    Raises:
        InputError: if the model has no linear layers.
    """
    if not replace_linear_layers(model, Int8Linear):
        raise InputError(f"{type(model).__name__} has no linear layers to round", "use --precision bf16")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


class PackedLinear(nn.Module):
    """A linear layer of bfloat16 weights in oneDNN's own layout; it gives the same bits.

    The library otherwise brings the weights into its layout at every call. For the one token a row of generation that
    takes as long as the product: packed, one row takes half of the time and sixteen take three quarters.

    Args:
        layer: what to lay out, on a CPU.
    """

    bias: torch.Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        # No buffer: an opaque tensor can be neither saved nor moved.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (…, inputs) to (…, outputs)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether this build of torch lays out weights of such a type on such a device."""
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack_weights(model: nn.Module) -> None:
    """Turn the linear layers of a model, which is in bfloat16 on a CPU, into `PackedLinear`.

    The model can then be used, and not be trained or saved. An embedding keeps its weights, also where the head is tied
    to it: the head becomes a layer of its own.
    """
    replace_linear_layers(model, PackedLinear)

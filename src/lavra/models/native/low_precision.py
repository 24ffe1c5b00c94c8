"""Weights for using a model and not training it: rounded to eight bits, or in the memory layout of the CPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.native.decoder import Decoder

FEW_ROWS = 4
"""Number of rows up to which the kernel that reads int8 weights is faster than converting them to bfloat16."""

_WHOLE = 64
"""Rows of int8 weights must be a multiple of this long for the kernel, which reads beyond the end of others."""


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and a scale for each output channel; its products are in bfloat16.

    Only the weights are rounded, symmetrically to 127 steps on either side of zero (absmax quantisation). The result
    for a row therefore does not depend on the other rows.

    Args:
        layer: Linear layer to round.
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
        """Return the output of the layer, (…, outputs) bfloat16.

        Args:
            x: Input, (…, inputs).
        """
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        if len(flat) <= FEW_ROWS and flat.device.type == "cpu" and not flat.shape[1] % _WHOLE:
            product = torch._weight_int8pack_mm(flat, self.codes, self.scales)
        else:
            product = F.linear(flat, self.codes.to(torch.bfloat16)) * self.scales
        product = product.view(*x.shape[:-1], -1)
        return product if self.bias is None else product + self.bias


def replace_linear_layers(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> int:
    """Replace every linear layer of a model, and return the number of replaced layers.

    Args:
        model: Model to change in place.
        make: Function from a linear layer to the module that replaces it.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> replace_linear_layers(model, lambda layer: nn.Identity())
        1
    """
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
    """Replace the linear layers of a model by `Int8Linear`, and convert its other parameters to bfloat16.

    The model can then be used but not trained. The embedding keeps bfloat16 weights; a head that is tied to it becomes
    a layer of its own.

    Args:
        model: Model to change in place.

    Raises:
        InputError: If the model has no linear layers.
    """
    if not replace_linear_layers(model, Int8Linear):
        raise InputError(f"{type(model).__name__} has no linear layers to round", "use --precision bf16")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


class PackedLinear(nn.Module):
    """A linear layer with bfloat16 weights in the memory layout of oneDNN; it computes the same bits.

    Otherwise the library brings the weights into its layout at every call, which for the one token per row of
    generation takes as long as the product. With packed weights, one row takes half of the time and sixteen rows take
    three quarters.

    Args:
        layer: Linear layer on a CPU.
        gelu: Whether GELU is applied to the outputs, without a second pass over them.
    """

    bias: torch.Tensor | None

    def __init__(self, layer: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        self._after = ("gelu", "none") if gelu else ("none", "")  # GELU by the error function, not by a tanh
        # It is not a buffer, because such an opaque tensor can be neither saved nor moved to another device.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer, (…, outputs).

        Args:
            x: Input, (…, inputs).
        """
        function, formula = self._after
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, function, [], formula)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether this build of torch can pack weights.

    Args:
        device: Device that holds the weights.
        dtype: Type of the weights.
    """
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack_weights(model: nn.Module) -> None:
    """Replace the linear layers of a model by `PackedLinear`.

    The model can then be used but neither trained nor saved. The embedding keeps its weights; a head that is tied to it
    becomes a layer of its own.

    Args:
        model: Model in bfloat16 on a CPU, to change in place.
    """
    replace_linear_layers(model, PackedLinear)

"""Quantisation of frozen weights to 8 or 4 bits under an adapter (QLoRA, Dettmers et al. 2023, arXiv 2305.14314).

Weights in 4 bits are in the NormalFloat format of `bitsandbytes`, in blocks whose scales are quantised too. Weights in
8 bits are in the format of `torchao`, with one scale per output. Only weights are rounded and never activations, so
that a full-precision copy of a layer computes the same as the layer, on a CPU and on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.models.parameter_names import block_of, linear_layers
from lavra.models.transforms.base import root_of

_TRANSPOSED = "_lavra_transposed"
"""Attribute that marks a quantised layer; its value says whether the original was one of GPT-2's transposed layers."""


@dataclass(frozen=True)
class Quantize:
    """Quantises the weights of the linear layers of the blocks; embeddings, norms and the head do not change.

    Attributes:
        bits: Bits of each weight, 8 or 4.
    """

    bits: Literal[8, 4]

    def apply(self, model: nn.Module) -> None:
        """Replace the layers by quantised ones.

        Args:
            model: Model to change in place.

        Raises:
            InputError: If the library is not installed, or the blocks have no linear layer.
        """
        root = root_of(model)
        layers = {
            name: layer
            for name, layer in linear_layers(root).items()
            if block_of(f"{name}.weight") and name.rpartition(".")[2] not in _exempt(root)
        }
        if not layers:
            raise InputError("no linear layers were found in the model's blocks", "leave out --base-bits")
        for name, layer in layers.items():
            plain = _as_linear(layer)
            quantized = _in_four_bits(plain) if self.bits == 4 else _in_eight_bits(plain)
            setattr(quantized, _TRANSPOSED, not isinstance(layer, nn.Linear))
            parent, _, child = name.rpartition(".")
            setattr(root.get_submodule(parent), child, quantized)

    def merge(self, model: nn.Module) -> None:
        """Replace the layers by full-precision ones, which keep the rounded values.

        Args:
            model: Model that `apply` changed.
        """
        dequantize_layers(root_of(model))


def _exempt(root: nn.Module) -> set[str]:
    """Return the last parts of the names of layers that a model of `transformers` needs in float32, as T5's `wo`."""
    return set(getattr(root, "_keep_in_fp32_modules", None) or ())


def is_quantized(tensor: torch.Tensor) -> bool:
    """Return whether a parameter holds packed bits, which cannot be cast to another type.

    Args:
        tensor: Parameter of a model.

    Examples:
        >>> is_quantized(torch.zeros(1)), is_quantized(torch.zeros(1, dtype=torch.uint8))
        (False, True)
    """
    return not tensor.is_floating_point() or hasattr(tensor, "__tensor_flatten__")


def has_quantized_layers(root: nn.Module) -> bool:
    """Return whether a model has quantised layers.

    Args:
        root: Module to search.
    """
    return any(hasattr(module, _TRANSPOSED) for module in root.modules())


def dequantize_layers(root: nn.Module) -> None:
    """Replace every quantised layer by a frozen full-precision one of its original class.

    Args:
        root: Module to change in place.
    """
    layers = [(name, module) for name, module in root.named_modules() if hasattr(module, _TRANSPOSED)]
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        setattr(root.get_submodule(parent), child, _plain(layer))


@contextmanager
def marks(root: nn.Module) -> Iterator[None]:
    """Mark a model as loaded in 4 bits during the block, where it is, so that `peft` adapts its layers accordingly.

    Args:
        root: Module with the layers.
    """
    four = any(type(module).__name__ == "Linear4bit" and hasattr(module, _TRANSPOSED) for module in root.modules())
    if not four:
        yield
        return
    vars(root)["is_loaded_in_4bit"] = True
    try:
        yield
    finally:
        vars(root).pop("is_loaded_in_4bit", None)


def _as_linear(layer: nn.Module) -> nn.Linear:
    """Return the layer, or a linear layer that computes what one of GPT-2's transposed layers computes."""
    if isinstance(layer, nn.Linear):
        return layer
    weight: torch.Tensor = layer.weight  # pyright: ignore[reportAssignmentType]
    return _linear(weight.detach().t().contiguous(), layer.bias)  # pyright: ignore[reportArgumentType]


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """Return a frozen linear layer with a (outputs, inputs) weight."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear


def _in_four_bits(linear: nn.Linear) -> nn.Module:
    try:
        import bitsandbytes.nn as library
    except ImportError as error:
        raise InputError("weights in 4 bits need the library bitsandbytes", "pip install bitsandbytes") from error
    quantized = library.Linear4bit(linear.in_features, linear.out_features, bias=False, quant_type="nf4")
    # On some CPUs evaluation would otherwise repack the weights for products in bf16, which differ from training's.
    quantized.support_avx512bf16_for_cpu = False
    weight = linear.weight.detach().clone()
    quantized.weight = library.Params4bit(weight, requires_grad=False, quant_type="nf4", module=quantized)  # pyright: ignore[reportCallIssue]
    quantized = quantized.to(linear.weight.device)  # the library quantises when the layer is moved
    if linear.bias is not None:
        quantized.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    return quantized


def _in_eight_bits(linear: nn.Linear) -> nn.Module:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise InputError("weights in 8 bits need the library torchao", "pip install torchao") from error
    copy = _linear(linear.weight.detach().clone(), linear.bias)
    quantize_(copy, Int8WeightOnlyConfig())
    return copy.requires_grad_(False)


def _plain(layer: Any) -> nn.Module:
    weight = layer.weight
    if type(layer).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    else:
        weight = weight.dequantize()
    if not getattr(layer, _TRANSPOSED):
        return _linear(weight, layer.bias)
    from transformers.pytorch_utils import Conv1D

    transposed = Conv1D(weight.shape[0], weight.shape[1])
    transposed.weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
    transposed.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return transposed

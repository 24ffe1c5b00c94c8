"""Making the models of our own from their specification, and counting their parameters without making them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lavra.core.seeds import torch_stream
from lavra.models.native.decoder import Decoder
from lavra.models.native.encoder_decoder import EncoderDecoder
from lavra.models.spec import DecoderSpec


def decoder_of(spec: DecoderSpec) -> Decoder:
    """Return the model of a specification, on torch's present device, with weights that are not drawn yet.

    Args:
        spec: Shape of the model.

    Examples:
        >>> type(decoder_of(DecoderSpec(architecture="encoder-decoder", depth=1, width=8, heads=1))).__name__
        'EncoderDecoder'
    """
    return EncoderDecoder(spec) if spec.architecture == "encoder-decoder" else Decoder(spec)


def build_decoder(spec: DecoderSpec, seed: int = 0) -> Decoder:
    """Return a decoder with fresh float32 weights on the CPU.

    Args:
        spec: Shape of the decoder.
        seed: Seed of the weights.

    Examples:
        >>> model = build_decoder(DecoderSpec(vocabulary=100, context=16, depth=1, width=8, heads=1))
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 8])
    """
    with torch.device("cpu"):  # a seed gives the same weights only if they are always drawn on the same device
        decoder = decoder_of(spec)
    decoder.initialize(torch_stream(seed, "weights", device="cpu"))
    return decoder


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters; shared ones are counted once.

    Args:
        model: Model to count.

    Examples:
        >>> count_parameters(nn.Linear(2, 3))
        9
    """
    return sum(parameter.numel() for parameter in model.parameters())


class _WithoutNumbers(TorchFunctionMode):
    """Leaves tensors as they are where `torch.nn.init` would draw them.

    Drawing meta tensors would import the compiler's modules, which takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function of torch."""
        if getattr(func, "__module__", None) == nn.init.__name__:
            return (kwargs or {})["tensor"] if not args else args[0]
        return func(*args, **(kwargs or {}))


def parameters_of(spec: DecoderSpec) -> int:
    """Return the number of parameters of a decoder, which is not made; shared ones are counted once.

    Args:
        spec: Specification of the decoder.

    Examples:
        >>> parameters_of(DecoderSpec(vocabulary=512, context=64, depth=1, width=64, heads=1))
        114688
    """
    with torch.device("meta"), _WithoutNumbers():
        return count_parameters(decoder_of(spec))

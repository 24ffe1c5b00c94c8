"""Numbers: the model computes in bf16 or fp16 where that is fast, while fp32 master weights learn.

The model's parameters are the working copies, in the compute type. The masters are their fp32 originals: gradients are
summed into them, the optimiser steps them, and the result is copied back. In fp32 the masters are the parameters
themselves, so nothing is kept twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.models.transforms.quantizing import is_quantized

Precision = Literal["fp32", "bf16", "fp16"]
TYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(requested: str, device: torch.device) -> Precision:
    """Return the precision for `auto`: bf16 where the processor multiplies it natively, fp16 on older GPUs, else fp32.

    Raises:
        InputError: if fp16 is asked for on a CPU, where it is slow and overflows.
    """
    if requested == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
        return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if requested not in TYPES:
        raise InputError(f"{requested!r} is no precision", f"choose one of auto, {', '.join(TYPES)}")
    if requested == "fp16" and device.type == "cpu":
        raise InputError("fp16 training on a CPU is slow and overflows", "use --machine.precision bf16, fp32 or auto")
    return requested  # pyright: ignore[reportReturnType]


def _cpu_has_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class LossScale:
    """The factor that keeps fp16 gradients in range (Micikevicius et al. 2018 §3.2); 1 and fixed for other types.

    Halved when a gradient overflows, doubled after `patience` steps without.
    """

    def __init__(self, active: bool, patience: int = 2000) -> None:
        self.active, self.patience = active, patience
        self.value = 2.0**16 if active else 1.0
        self.calm = 0

    def update(self, overflowed: bool) -> None:
        """Note whether the step's gradients overflowed."""
        if not self.active:
            return
        self.calm = 0 if overflowed else self.calm + 1
        if overflowed:
            self.value = max(1.0, self.value / 2)
        elif self.calm >= self.patience:
            self.value, self.calm = self.value * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"value": self.value, "calm": self.calm}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.value, self.calm = state["value"], state["calm"]


class Masters:
    """The fp32 master weights of a model's trainable parameters, by name.

    Args:
        model: its parameters are converted to the compute type; buffers stay as they are (rotary tables need fp32), and
            so do frozen weights that are held in fewer bits.
        precision: the compute type.

    Attributes:
        working: the model's parameters that learn, by name.
        weights: their masters.
        separate: whether the masters are tensors of their own.
        widened: whether the model computes with the masters all the same, since the compute type was given up.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        self.working = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.working:
            raise InputError("the model has no trainable parameter", "unfreeze some")
        if precision == "fp32":
            self.weights: dict[str, torch.Tensor] = dict(self.working)
        else:
            self.weights = {name: p.detach().float().clone() for name, p in self.working.items()}
            for parameter in model.parameters():
                if not is_quantized(parameter):  # packed bits of a frozen base are no numbers to be cast
                    parameter.data = parameter.data.to(TYPES[precision])
        self.separate = precision != "fp32"
        self.widened = False

    @contextmanager
    def in_full_precision(self, model: nn.Module) -> Iterator[None]:
        """Let the model compute with the masters themselves during the block; nothing is copied."""
        if not self.separate or self.widened:
            yield
            return
        before = {name: parameter.data for name, parameter in model.named_parameters()}
        self._point_to_masters(model)
        try:
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.grad = None
                parameter.data = before[name]

    def widen(self, model: nn.Module) -> None:
        """Let the model compute in fp32, with the masters themselves, from now on."""
        self._point_to_masters(model)
        self.widened = True

    def _point_to_masters(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.grad = None
            if name in self.weights:
                parameter.data = self.weights[name]
            elif not is_quantized(parameter):
                parameter.data = parameter.data.float()

    def collect(self, scale: float = 1.0) -> None:
        """Add the working copies' gradients (divided by `scale`) to the masters', in fp32, and clear them."""
        if not self.separate:
            return
        for name, parameter in self.working.items():
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            if scale != 1.0:
                gradient.div_(scale)
            master = self.weights[name]
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def clear(self) -> None:
        """Forget all gradients."""
        for name, parameter in self.working.items():
            parameter.grad = None
            self.weights[name].grad = None

    def gradients(self) -> list[torch.Tensor]:
        """Return the masters' gradients that exist."""
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the working copies."""
        if self.separate:
            torch._foreach_copy_(list(self.working.values()), list(self.weights.values()))

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set the masters (and working copies) to `tensors`, which must have the same names.

        Raises:
            InputError: if a name or a shape differs.
        """
        if set(tensors) != set(self.weights):
            odd = sorted(set(tensors) ^ set(self.weights))
            raise InputError(
                f"the checkpoint holds other weights than the model: {', '.join(odd[:5])}", "check --model"
            )
        for name, tensor in tensors.items():
            self.weights[name].copy_(tensor)
        self.publish()

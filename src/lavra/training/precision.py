"""Mixed precision (Micikevicius et al. 2018, arXiv 1710.03740): bf16 or fp16 compute with fp32 master weights.

The parameters of the model are the working copies, in the compute type. The master weights are fp32 originals:
gradients are accumulated into them, the optimiser updates them, and the result is copied back into the model. In fp32
the master weights are the parameters themselves, so nothing is kept twice.
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
"""The torch dtype of each precision."""


def choose_precision(requested: str, device: torch.device) -> Precision:
    """Return the precision that the model computes in.

    Args:
        requested: `fp32`, `bf16` or `fp16`; or `auto` for bf16 where the processor multiplies it natively (GPUs from
            compute capability 8.0, CPUs with AVX512-BF16 or AMX), fp16 on older GPUs, and fp32 otherwise.
        device: Device that trains.

    Raises:
        InputError: if there is no such precision, or if fp16 is requested on a CPU, where it is slow and overflows.

    Examples:
        >>> choose_precision("fp32", torch.device("cpu"))
        'fp32'
    """
    if requested == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
        return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if requested not in TYPES:
        raise InputError(f"{requested!r} is not a precision", f"choose one of auto, {', '.join(TYPES)}")
    if requested == "fp16" and device.type == "cpu":
        raise InputError("fp16 training on a CPU is slow and overflows", "use --machine.precision bf16, fp32 or auto")
    return requested  # pyright: ignore[reportReturnType]


def _cpu_has_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class LossScale:
    """Dynamic loss scaling, which keeps fp16 gradients from underflowing (Micikevicius et al. 2018, §3.2).

    The loss is multiplied by `value` before the backward pass. The value is halved when a gradient overflows, and
    doubled after `patience` steps without an overflow.

    Args:
        active: True for fp16. Otherwise the value is 1 and never changes.
        patience: Steps without an overflow after which the value is doubled.

    Attributes:
        value: Current loss scale; 65,536 at the start.
        calm: Number of steps since the last overflow or doubling.

    Examples:
        >>> scale = LossScale(active=True)
        >>> scale.update(overflowed=True)
        >>> scale.value
        32768.0
    """

    def __init__(self, active: bool, patience: int = 2000) -> None:
        self.active, self.patience = active, patience
        self.value = 2.0**16 if active else 1.0
        self.calm = 0

    def update(self, overflowed: bool) -> None:
        """Adapt the loss scale after a step.

        Args:
            overflowed: Whether a gradient of the step was infinite or not a number.
        """
        if not self.active:
            return
        self.calm = 0 if overflowed else self.calm + 1
        if overflowed:
            self.value = max(1.0, self.value / 2)
        elif self.calm >= self.patience:
            self.value, self.calm = self.value * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, for a checkpoint."""
        return {"value": self.value, "calm": self.calm}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.value, self.calm = state["value"], state["calm"]


class MasterWeights:
    """The fp32 master weights of the trainable parameters of a model.

    Args:
        model: Model whose parameters are converted to the compute type in place. Buffers keep their type, because
            rotary tables need fp32, and so do frozen weights that are quantized.
        precision: Compute type of the model.

    Attributes:
        working: Trainable parameters of the model by name, in the compute type.
        weights: Master weights by the same names, in fp32.
        separate: True if the master weights are tensors of their own, i.e. the compute type is not fp32.
        widened: True if the model computes with the master weights although they are separate, because the compute
            type was found to be wrong on this machine.

    Raises:
        InputError: if no parameter of the model is trainable.
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
        """Let the model compute in fp32 with the master weights themselves during the block; nothing is copied."""
        if not self.separate or self.widened:
            yield
            return
        before = {name: parameter.data for name, parameter in model.named_parameters()}
        self._point_to_master_weights(model)
        try:
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.grad = None
                parameter.data = before[name]

    def widen(self, model: nn.Module) -> None:
        """Let the model compute in fp32 with the master weights themselves from now on."""
        self._point_to_master_weights(model)
        self.widened = True

    def _point_to_master_weights(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.grad = None
            if name in self.weights:
                parameter.data = self.weights[name]
            elif not is_quantized(parameter):
                parameter.data = parameter.data.float()

    def accumulate(self, scale: float = 1.0) -> None:
        """Accumulate the gradients of the working copies into those of the master weights, in fp32, and clear them.

        Args:
            scale: Loss scale by which the gradients are divided.
        """
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
        """Clear the gradients of the working copies and of the master weights."""
        for name, parameter in self.working.items():
            parameter.grad = None
            self.weights[name].grad = None

    def gradients(self) -> list[torch.Tensor]:
        """Return the gradients of those master weights that have one."""
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Copy the master weights into the model, rounded to the compute type."""
        if self.separate:
            torch._foreach_copy_(list(self.working.values()), list(self.weights.values()))

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set the master weights, and with them the working copies, to given values.

        Args:
            tensors: Values by parameter name.

        Raises:
            InputError: if the names are not those of the master weights.
        """
        if set(tensors) != set(self.weights):
            odd = sorted(set(tensors) ^ set(self.weights))
            raise InputError(
                f"the checkpoint holds other weights than the model: {', '.join(odd[:5])}", "check --model"
            )
        for name, tensor in tensors.items():
            self.weights[name].copy_(tensor)
        self.copy_to_model()

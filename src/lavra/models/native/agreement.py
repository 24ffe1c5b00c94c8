"""Whether a fast way to compute may be trusted: it is compared with the plain way, and both with an exact one.

How far the plain way is from the exact one (the same in fp32) tells what the precision costs on these very numbers. A
fast way may be at most twice as far: the allowed difference is measured, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

FACTOR = 2.0
"""Times as far from the exact result as the plain way is that a fast way may be."""

FLOORS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10, torch.float32: 2.0**-14, torch.float64: 2.0**-30}
"""Relative distance that is never held against a fast way, by type: the order of a sum alone may bring as much."""

Tensors = Mapping[str, torch.Tensor]


def can_be_compared(tensor: torch.Tensor) -> bool:
    """Say whether a tensor has values and nobody watches what is computed, as where shapes are rehearsed or counted."""
    plain = isinstance(tensor, torch.nn.Parameter) or type(tensor) is torch.Tensor
    return plain and tensor.device.type != "meta" and _get_current_dispatch_mode() is None


class Reference:
    """What a fast way is compared with.

    Args:
        exact: the results of the exact way, by name; kept until the last comparison.
        plain: those of the plain way, in the type of the fast one; only their distances are kept.
        dtype: type in which the plain and the fast way compute.
        slack: what the smallest allowed difference is multiplied by, where the plain way is all that is known.
    """

    def __init__(self, exact: Tensors, plain: Tensors, dtype: torch.dtype, *, slack: float = 1.0) -> None:
        self.exact = exact
        numbers = sum(tensor.numel() for tensor in exact.values())
        # A tensor whose exact value is nothing but noise (the gradient of a bias of keys is zero) is compared by the
        # size that numbers have elsewhere.
        everywhere = math.sqrt(sum(_squared(tensor) for tensor in exact.values()) / max(1, numbers))
        floor = slack * FLOORS.get(dtype, FLOORS[torch.float32])
        self.allowed = {
            name: FACTOR * _distance(plain[name], tensor)
            + floor * (math.sqrt(_squared(tensor)) + everywhere * math.sqrt(tensor.numel()))
            for name, tensor in exact.items()
        }

    def disagreement(self, fast: Tensors) -> str | None:
        """Return in words where a fast way is farther from the exact results than it may be; None where it is not.

        Args:
            fast: its results, with the names of the exact ones.
        """
        for name, exact in self.exact.items():
            if name not in fast:
                return f"{name} is missing"
            if fast[name].shape != exact.shape:
                return f"{name} has the shape {tuple(fast[name].shape)} instead of {tuple(exact.shape)}"
        worst, excess = "", 1.0
        for name, exact in self.exact.items():
            distance, allowed = _distance(fast[name], exact), self.allowed[name]
            if not math.isfinite(allowed):
                continue  # the plain way is no measure here; what is not finite is looked into step by step
            if not math.isfinite(distance):
                return f"{name} is not finite"
            if distance > excess * allowed:
                size = math.sqrt(_squared(exact)) or 1.0
                worst = f"{name} is {distance / size:.2g} away from fp32, where {allowed / size:.2g} is allowed"
                excess = distance / allowed if allowed else math.inf
        return worst or None


def _squared(tensor: torch.Tensor) -> float:
    """Return the sum of squares; float64 sums, so that large tensors lose nothing."""
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=_wide(tensor))) ** 2


def _distance(tensor: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the L2 norm of the difference."""
    difference = tensor.detach().to(exact.dtype) - exact.detach()
    return float(torch.linalg.vector_norm(difference, dtype=_wide(exact)))


def _wide(tensor: torch.Tensor) -> torch.dtype:
    """Return float64 where the device has it (Apple's has not), else float32."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64

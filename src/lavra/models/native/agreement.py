"""Comparison of a fast computation with a plain one, by their distances from an exact one.

The distance of the plain computation from the exact one, which is the same in fp32, shows what the precision costs on
the numbers at hand. A fast computation may be at most twice as far, so that the tolerance is measured and not guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

FACTOR = 2.0
"""Largest distance of a fast computation from the exact result, as a multiple of the distance of the plain one."""

FLOORS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10, torch.float32: 2.0**-14, torch.float64: 2.0**-30}
"""Relative distance that is always allowed, by type, because the order of a sum alone may cause as much."""

Tensors = Mapping[str, torch.Tensor]
"""Results of a computation by name."""


def can_be_compared(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has values that can be compared.

    A fake or meta tensor has none, and under a dispatch mode every operation is observed, for instance to count FLOPs.

    Args:
        tensor: Tensor to compute with.

    Examples:
        >>> can_be_compared(torch.zeros(1)), can_be_compared(torch.zeros(1, device="meta"))
        (True, False)
    """
    plain = isinstance(tensor, torch.nn.Parameter) or type(tensor) is torch.Tensor
    return plain and tensor.device.type != "meta" and _get_current_dispatch_mode() is None


class Reference:
    """The results with which a fast computation is compared.

    Args:
        exact: Results of the exact computation by name. They are kept.
        plain: Results of the plain computation in the type of the fast one. Only their distances are kept.
        dtype: Type in which the plain and the fast computation are done.
        slack: Factor on the distance that is always allowed. It is larger where the plain computation has to serve as
            the exact one.

    Examples:
        >>> exact = {"sum": torch.tensor([1.0])}
        >>> reference = Reference(exact, exact, torch.float32)
        >>> reference.disagreement({"sum": torch.tensor([1.0])}) is None
        True
        >>> reference.disagreement({"sum": torch.tensor([2.0])}) is None
        False
    """

    def __init__(self, exact: Tensors, plain: Tensors, dtype: torch.dtype, *, slack: float = 1.0) -> None:
        self.exact = exact
        numbers = sum(tensor.numel() for tensor in exact.values())
        # A tensor whose exact value is only noise is compared by the usual size of all numbers. One example is the
        # gradient of the bias of keys, which is zero because a softmax does not change with a constant.
        everywhere = math.sqrt(sum(_squared(tensor) for tensor in exact.values()) / max(1, numbers))
        floor = slack * FLOORS.get(dtype, FLOORS[torch.float32])
        sizes = {
            name: math.sqrt(_squared(tensor)) + everywhere * math.sqrt(tensor.numel()) for name, tensor in exact.items()
        }
        # What rounding costs one tensor is a matter of luck: in a small one, such as a norm's gain, large terms cancel
        # in one block and not in the next. Tensors of one kind in all blocks therefore share the largest relative
        # distance.
        distances = {name: _distance(plain[name], tensor) for name, tensor in exact.items()}
        largest: dict[str, float] = {}
        for name, distance in distances.items():
            if sizes[name] and math.isfinite(distance):
                largest[_kind(name)] = max(largest.get(_kind(name), 0.0), distance / sizes[name])
        self.allowed = {
            name: FACTOR * max(distance, largest.get(_kind(name), 0.0) * sizes[name]) + floor * sizes[name]
            for name, distance in distances.items()
        }

    def disagreement(self, fast: Tensors) -> str | None:
        """Return where a fast computation is too far from the exact results, as a clause, or None where it is not.

        Args:
            fast: Results of the fast computation, with the names of the exact ones.
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
                continue  # the plain result is not finite, so it gives no tolerance; training checks that by itself
            if not math.isfinite(distance):
                return f"{name} is not finite"
            if distance > excess * allowed:
                size = math.sqrt(_squared(exact)) or 1.0
                worst = f"{name} is {distance / size:.2g} away from fp32, where {allowed / size:.2g} is allowed"
                excess = distance / allowed if allowed else math.inf
        return worst or None


def _kind(name: str) -> str:
    """Return the name of a tensor without the number of its block, which those alike in all blocks share."""
    return re.sub(r"\d+", "#", name)


def _squared(tensor: torch.Tensor) -> float:
    """Return the sum of squares, added in float64 so that large tensors lose nothing."""
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=_wide(tensor))) ** 2


def _distance(tensor: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the L2 norm of the difference."""
    difference = tensor.detach().to(exact.dtype) - exact.detach()
    return float(torch.linalg.vector_norm(difference, dtype=_wide(exact)))


def _wide(tensor: torch.Tensor) -> torch.dtype:
    """Return float64, or float32 on Apple's GPU, which has no float64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64

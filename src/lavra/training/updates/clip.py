"""Gradient clipping by the global norm."""

from __future__ import annotations

import torch

from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome, Update


class Clip(Update):
    """Update that clips the gradient by its global norm (Pascanu et al. 2013, arXiv 1211.5063, algorithm 1).

    When the L2 norm of the gradients of all weights together exceeds `limit`, all of them are multiplied by
    limit / norm, as `torch.nn.utils.clip_grad_norm_` does. The direction stays the same. The norm is that of the
    gradient as the updates around this one have left it.

    Args:
        limit: Largest norm that is left unchanged; infinity clips nothing.

    Examples:
        >>> Clip().limit
        1.0
        >>> Clip(limit=float("inf")).state_dict()
        {}
    """

    name = "clip"

    def __init__(self, limit: float = 1.0) -> None:
        self.limit = limit

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Clip the gradient, perform the rest of the step, and return its outcome with `clipped` (0 or 1) as metric."""
        norm = step.current_norm()
        clipped = norm > self.limit
        if clipped:
            torch._foreach_mul_(step.master_weights.gradients(), self.limit / norm)
        outcome = inner()
        outcome.metrics["clipped"] = float(clipped)
        return outcome

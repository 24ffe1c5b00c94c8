"""Clipping of the gradient by its global norm."""

from __future__ import annotations

from typing import Any

import torch

from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome


class Clip:
    """Scale the gradient down when its norm exceeds `limit` (Pascanu et al. 2013, algorithm 1).

    Args:
        limit: largest norm; infinity clips nothing.
    """

    name = "clip"

    def __init__(self, limit: float = 1.0) -> None:
        self.limit = limit

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Clip, then go on."""
        norm = step.gradient_norm()
        clipped = norm > self.limit
        if clipped:
            torch._foreach_mul_(step.masters.gradients(), self.limit / norm)
        outcome = inner()
        outcome.metrics["clipped"] = float(clipped)
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

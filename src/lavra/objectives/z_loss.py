"""The z-loss of objectives that predict tokens (PaLM, arXiv 2204.02311, section 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lavra.core.errors import InputError
from lavra.objectives.wrapping import Wrapper


def with_z_loss(objective: Any, weight: float) -> Any:
    """Return an objective that adds z·(log Z)² to the loss of each target while the model learns.

    Z is the normaliser of the softmax. The term keeps the logits from drifting together, which the cross-entropy does
    not see, and bf16 and fp16 do. Every objective with an attribute `z_loss` has it.

    Args:
        objective: Objective of the run, perhaps in wrappers.
        weight: Weight z, such as 1e-4; 0 returns the objective itself.

    Raises:
        InputError: If what is predicted are no tokens of the vocabulary.

    Examples:
        >>> from lavra.objectives.causal import Causal
        >>> with_z_loss(Causal(32), 1e-4).z_loss
        0.0001
    """
    if not weight:
        return objective
    if isinstance(objective, Wrapper):
        return replace(objective, inner=with_z_loss(objective.inner, weight))
    if not hasattr(objective, "z_loss"):
        raise InputError(
            "--optimization.z-loss is for objectives that predict tokens", "leave it out for labels and vectors"
        )
    return replace(objective, z_loss=weight)

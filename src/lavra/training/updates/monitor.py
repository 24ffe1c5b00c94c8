"""Metrics that show early when training goes wrong, and are cheap enough to be always on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome, Update


class Monitor(Update):
    """Update that measures norms of weights and gradients, and update-to-weight ratios, from time to time.

    It adds to the metrics of a step: `parameter_norm`, the L2 norm of all weights; `update_ratio_<group>`, the norm of
    the change of a group of weights divided by the norm of these weights; `embedding_gradient_norm`; and
    `clipped_share`, the share of the steps so far whose gradient was clipped. Gradient norm and clipping of each single
    step are in its metrics anyway.

    Args:
        every: Steps between two measurements. A measurement copies all weights, which is what it costs.
    """

    name = "monitor"

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self.clipped = 0
        self.steps = 0

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Perform the step, measure before and after it if a measurement is due, and return the outcome."""
        due = step.number % self.every == 0
        weights = step.master_weights.weights
        before = {name: weight.detach().clone() for name, weight in weights.items()} if due else {}
        embedding = _embedding_gradient(step) if due else None
        outcome = inner()
        self.steps += 1
        self.clipped += int(outcome.metrics.get("clipped", 0.0))
        if not due:
            return outcome
        outcome.metrics["clipped_share"] = self.clipped / self.steps
        if embedding is not None:
            outcome.metrics["embedding_gradient_norm"] = embedding
        with torch.no_grad():
            outcome.metrics["parameter_norm"] = _norm(list(weights.values()))
            for group, names in _groups(weights).items():
                moved = torch._foreach_sub([weights[name] for name in names], [before[name] for name in names])
                size = _norm([before[name] for name in names])
                outcome.metrics[f"update_ratio_{group}"] = _norm(moved) / size if size else 0.0
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of steps and of clipped steps so far."""
        return {"clipped": self.clipped, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.clipped, self.steps = state["clipped"], state["steps"]


def _groups(weights: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Return the names of the weights by group: embedding, attention, mlp, head and rest."""
    groups: dict[str, list[str]] = {}
    for name in weights:
        if "embed" in name:
            group = "embedding"
        elif ".attention." in name and ".attention_norm" not in name:
            group = "attention"
        elif ".mlp." in name:
            group = "mlp"
        else:
            group = "head" if name.startswith("output") else "rest"
        groups.setdefault(group, []).append(name)
    return groups


def _embedding_gradient(step: Step) -> float | None:
    for name, weight in step.master_weights.weights.items():
        if "embed" in name and weight.grad is not None:
            return float(torch.linalg.vector_norm(weight.grad))
    return None


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    """Return the L2 norm of all tensors, taken together as one vector."""
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors)))))

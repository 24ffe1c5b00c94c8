"""Lion (Chen et al. 2023, arXiv 2302.06675): steps of equal size in the direction of the sign of a moving average."""

from __future__ import annotations

from typing import Any

import torch

from lavra.training.optimizers.adamw import WeightGroups, learning


class Lion(WeightGroups):
    """Lion optimiser, whose state is one number for each weight: half of AdamW's.

    With both `betas` 0 it is the sign of the gradient alone (signSGD).

    Args:
        groups: Weights or parameter groups, see `WeightGroups`.
        lr: Learning rate, the distance that every single weight moves in a step.
        betas: Share of the moving average in the direction of a step, and its decay rate.
        weight_decay: Decoupled weight decay: each step multiplies the weights by 1 - lr * weight_decay.

    Examples:
        >>> weight = torch.tensor([1.0, 2.0, 3.0])
        >>> weight.grad = torch.tensor([5.0, -0.001, 0.0])
        >>> Lion([weight], lr=0.5).step()
        >>> weight
        tensor([0.5000, 2.5000, 3.0000])
    """

    def __init__(
        self, groups: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            weights, gradients = learning(group)
            if not weights:
                continue
            averages = [self._average(weight) for weight in weights]
            (now, kept), lr = group["betas"], group["lr"]
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1.0 - lr * group["weight_decay"])
            directions = torch._foreach_lerp(averages, gradients, 1.0 - now)
            torch._foreach_sign_(directions)
            torch._foreach_lerp_(averages, gradients, 1.0 - kept)
            torch._foreach_add_(weights, directions, alpha=-lr)

    def _average(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if not state:
            state["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state["exp_avg"]

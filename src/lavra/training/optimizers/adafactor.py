"""Adafactor (Shazeer and Stern 2018, arXiv 1804.04235), by PyTorch's function: a second moment of rows and columns."""

from __future__ import annotations

from typing import Any

import torch

from lavra.training.optimizers.adamw import WeightGroups, learning

LEAST_SIZE = 0.1
"""Smallest root mean square that is taken for the size of a weight. The paper and PyTorch have 0.001, with which layers
that start at zero, as the head and the ends of the branches do here, hardly begin to learn: with 0.1 and ten times the
rate of AdamW they move as with AdamW."""


class Adafactor(WeightGroups):
    """Adafactor, whose state of a matrix is one number for each row and each column, and none for its momentum.

    It is `torch.optim.Adafactor` to the bit. The learning rate is relative: a weight moves by its own root mean square
    (at least 0.1) times min(lr, 1 / sqrt(step)). The update of a tensor is clipped to a root mean square of 1, and
    the second moment is an average over all steps, with a decay rate of 1 - step ** -0.8.

    Args:
        groups: Weights or parameter groups, see `WeightGroups`.
        lr: Learning rate relative to the size of the weights.
        eps: Square root of the smallest mean squared gradient; PyTorch's default of 1.2e-7 is larger than that of many
            language models, and the paper's is this one.
        weight_decay: Decoupled weight decay: each step multiplies the weights by 1 - lr * weight_decay.

    Examples:
        >>> weight = torch.ones(2, 3)
        >>> weight.grad = torch.ones(2, 3)
        >>> optimizer = Adafactor([weight], lr=0.01)
        >>> optimizer.step()
        >>> weight[0, 0].item(), sorted(optimizer.state[weight])
        (0.9900000095367432, ['col_var', 'row_var', 'step'])
    """

    on_cpu = frozenset({"step"})

    def __init__(self, groups: Any, lr: float = 1e-2, eps: float = 1e-15, weight_decay: float = 0.0) -> None:
        super().__init__(groups, lr=lr, eps=eps, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight that has a gradient."""
        from torch.optim._adafactor import adafactor

        for group in self.param_groups:
            weights, gradients = learning(group)
            states = [self._state_of(weight) for weight in weights]
            adafactor(
                weights,
                gradients,
                [state.get("row_var") for state in states],
                [state.get("col_var") for state in states],
                [state.get("variance") for state in states],
                [state["step"] for state in states],
                d=1.0,
                lr=group["lr"],
                beta2_decay=-0.8,
                weight_decay=group["weight_decay"],
                eps1=group["eps"],
                eps2=LEAST_SIZE,
                maximize=False,
            )

    def _state_of(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            if weight.dim() > 1:
                state["row_var"] = weight.new_zeros((*weight.shape[:-1], 1))
                state["col_var"] = weight.new_zeros((*weight.shape[:-2], 1, weight.shape[-1]))
            else:
                state["variance"] = torch.zeros_like(weight)
        return state

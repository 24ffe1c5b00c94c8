"""Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682): an average of the weights instead of a falling rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lavra.training.optimizers.adamw import EachWeight


class ScheduleFreeAdamW(EachWeight):
    """AdamW whose momentum is an average of the weights, which needs no decay of the learning rate.

    There are three sequences of weights: z takes Adam's steps, x is the average of z that is measured and exported, and
    y = (1 - beta1) z + beta1 x is where gradients are computed. The weights of the model are y, the state holds z, and
    x follows from both (`averaged`). A step counts in the average by the square of the largest learning rate so far.

    Args:
        groups: Weights or parameter groups, see `WeightGroups`.
        lr: Learning rate, with a warm-up and without a decay.
        betas: Share of x in y, above 0 and below 1, and decay rate of the moving average of the squared gradient.
        eps: Constant added to the denominator, against division by zero.
        weight_decay: Decoupled weight decay, at y.

    Examples:
        >>> weight = torch.ones(2)
        >>> weight.grad = torch.ones(2)
        >>> optimizer = ScheduleFreeAdamW([weight], lr=0.1)
        >>> optimizer.step()
        >>> weight, optimizer.averaged(weight)
        (tensor([0.9000, 0.9000]), tensor([0.9000, 0.9000]))
    """

    on_cpu = frozenset({"step", "largest_lr", "weight_sum"})

    def __init__(
        self,
        groups: Any,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state, lr, (share, second) = self._state_of(weight), group["lr"], group["betas"]
        state["step"] += 1
        largest = state["largest_lr"].fill_(max(lr, float(state["largest_lr"])))
        total = float(state["weight_sum"].add_(largest.square()))
        counts = float(largest) ** 2 / total if total else 0.0
        square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        direction = gradient / (square / (1.0 - second ** float(state["step"]))).sqrt_().add_(group["eps"])
        direction.add_(weight, alpha=group["weight_decay"])
        # y moves by its share of the step of z, and by how x moves towards z.
        weight.lerp_(state["z"], counts).add_(direction, alpha=lr * (share * (1.0 - counts) - 1.0))
        state["z"].sub_(direction, alpha=lr)

    def _state_of(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[weight]
        if not state:
            for name in sorted(self.on_cpu):
                state[name] = torch.zeros((), dtype=torch.float64, device="cpu")
            state["z"] = weight.detach().clone()
            state["exp_avg_sq"] = torch.zeros_like(weight)
        return state

    def averaged(self, weight: torch.Tensor) -> torch.Tensor:
        """Return x, the average that is measured and exported, as a new tensor; the weight before its first update."""
        share = next(group["betas"][0] for group in self.param_groups if any(one is weight for one in group["params"]))
        state = self.state.get(weight)
        return _average(weight.detach(), state["z"], share) if state else weight.detach().clone()


def _average(weight: torch.Tensor, z: torch.Tensor, share: float) -> torch.Tensor:
    """Return x of y = (1 - share) z + share x."""
    return weight.lerp(z, 1.0 - 1.0 / share)


def averages_of(
    weights: Mapping[str, torch.Tensor], states: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Return the averages x of a checkpoint, by name.

    Args:
        weights: Master weights y by name.
        states: State of the optimiser, named `parameter|state`; a weight without a state is its own average.
        share: Share of x in y: the first of the betas.
    """
    return {
        name: _average(weight, states[f"{name}|z"], share) if f"{name}|z" in states else weight
        for name, weight in weights.items()
    }

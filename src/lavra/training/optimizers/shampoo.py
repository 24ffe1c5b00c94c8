"""Shampoo (Gupta et al. 2018, arXiv 1802.09568), with the step length of Adam (Shi et al. 2023, arXiv 2309.06497)."""

from __future__ import annotations

from typing import Any

import torch

from lavra.training.optimizers.adamw import EachWeight
from lavra.training.optimizers.soap import LARGEST_SIDE, add_statistics, sides

_RIDGE = 1e-6
"""Share of the largest eigenvalue that is added to all of them, so that directions without a gradient so far are not
blown up (arXiv 2002.09018)."""


class Shampoo(EachWeight):
    """Shampoo optimiser for matrices, whose steps are as long as Adam's (grafting).

    With L and R the moving averages of G Gᵀ and Gᵀ G, a step goes in the direction of L^(-1/4) M R^(-1/4), where M is
    the moving average of the gradient G, by the length of the step that Adam would take for the same matrix. The roots
    are computed in float64 every `frequency` steps; before the first time a step is Adam's. A side longer than 1,024 is
    left out, and the other gets the power -1/2.

    Args:
        groups: Matrices or parameter groups of matrices, see `WeightGroups`.
        lr: Learning rate, in the units of AdamW's.
        betas: Decay rates of the moving averages of the gradient and of everything that is squared.
        eps: Constant added to Adam's denominator.
        weight_decay: Decoupled weight decay: each step multiplies the weights by 1 - lr * weight_decay.
        frequency: Steps between two computations of the roots.

    Examples:
        >>> weight = torch.zeros(2, 2)
        >>> weight.grad = torch.eye(2)
        >>> Shampoo([weight], lr=0.1).step()
        >>> bool((weight.diagonal() < 0).all())
        True
    """

    heavy = True
    on_cpu = frozenset({"step"})

    def __init__(
        self,
        groups: Any,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        frequency: int = 10,
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.frequency = frequency

    def _update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self._state_of(weight)
        state["step"] += 1
        step, (first, second) = int(state["step"]), group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1.0 - first) / (1.0 - first**step)
        square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        add_statistics(state, gradient, second)
        if step % self.frequency == 0:
            for side in sides(state):
                state[f"{side}_root"].copy_(inverse_root(state[side], 2 * len(sides(state))))
        direction = mean / (square / (1.0 - second**step)).sqrt_().add_(group["eps"])
        if step >= self.frequency and sides(state):
            length = torch.linalg.vector_norm(direction)
            direction = state["left_root"] @ mean if "left" in state else mean
            direction = direction @ state["right_root"] if "right" in state else direction
            tiny = torch.finfo(direction.dtype).tiny
            direction = direction * (length / torch.linalg.vector_norm(direction).clamp_min(tiny))
        weight.mul_(1.0 - group["lr"] * group["weight_decay"])
        weight.sub_(direction, alpha=group["lr"])

    def _state_of(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            for side, length in zip(("left", "right"), weight.shape, strict=True):
                if length <= LARGEST_SIDE:
                    state[side], state[f"{side}_root"] = (weight.new_zeros(length, length) for _ in range(2))
        return state


def inverse_root(matrix: torch.Tensor, root: int) -> torch.Tensor:
    """Return the power -1/root of a symmetric matrix without negative eigenvalues, in its dtype.

    Args:
        matrix: (length, length) tensor.
        root: Which root.

    Examples:
        >>> inverse_root(torch.diag(torch.tensor([16.0, 81.0])), 4).diagonal().round(decimals=4)
        tensor([0.5000, 0.3333])
    """
    # Small eigenvalues, which an inverse root makes large, are lost in float32; MPS has no float64.
    wide = matrix.double() if matrix.device.type != "mps" else matrix.cpu().double()
    values, vectors = torch.linalg.eigh(wide)
    values = values.clamp_min(0.0) + _RIDGE * values[-1].clamp_min(torch.finfo(torch.float32).tiny)
    return ((vectors * values.pow(-1.0 / root)) @ vectors.T).to(matrix)

"""SOAP (Vyas et al. 2024, arXiv 2409.11321): Adam in the slowly changing eigenbasis of Shampoo's statistics."""

from __future__ import annotations

import math
from typing import Any

import torch

from lavra.training.optimizers.adamw import EachWeight

LARGEST_SIDE = 1024
"""Longest side of a matrix that gets a basis. A longer one keeps the usual axes, as in the one-sided form of the paper:
its basis would take more memory than the matrix, and seconds on a CPU."""


class SOAP(EachWeight):
    """SOAP optimiser for matrices.

    For each side of a matrix there are the moving average of the products of its gradients, and an eigenbasis of it.
    The gradient is rotated into both bases, where Adam's second moment is kept and divided by. Every `frequency` steps
    the bases are improved by one step of the orthogonal iteration. The first gradient of a weight only makes its bases,
    and moves nothing, as in the authors' code.

    Args:
        groups: Matrices or parameter groups of matrices, see `WeightGroups`.
        lr: Learning rate, in the units of AdamW's.
        betas: Decay rates of the moving averages of the gradient and of everything that is squared.
        eps: Constant added to the denominator, against division by zero.
        weight_decay: Decoupled weight decay: each step multiplies the weights by 1 - lr * weight_decay.
        frequency: Steps between two improvements of the bases.

    Examples:
        >>> weight = torch.zeros(2, 2)
        >>> optimizer = SOAP([weight], lr=0.1)
        >>> for _ in range(2):
        ...     weight.grad = torch.eye(2)
        ...     optimizer.step()
        >>> bool((weight.diagonal() < 0).all())
        True
    """

    heavy = True
    on_cpu = frozenset({"step"})

    def __init__(
        self,
        groups: Any,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        frequency: int = 10,
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.frequency = frequency

    def _update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:  # the first gradient makes the bases, and moves nothing
            _begin(state, gradient, group["betas"][1])
            return
        state["step"] += 1
        step, (first, second) = int(state["step"]), group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1.0 - first)
        square = state["exp_avg_sq"].lerp_(_rotated(gradient, state).square_(), 1.0 - second)
        direction = _rotated(mean, state).div_(square.sqrt().add_(group["eps"]))
        size = group["lr"] * math.sqrt(1.0 - second**step) / (1.0 - first**step)
        weight.mul_(1.0 - group["lr"] * group["weight_decay"])
        weight.sub_(_rotated_back(direction, state), alpha=size)
        add_statistics(state, gradient, second)
        if step % self.frequency == 0:
            _improve_bases(state)


def _begin(state: dict[str, torch.Tensor], gradient: torch.Tensor, second: float) -> None:
    """Make the state of a weight and its first bases, from its first gradient."""
    state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    for side, length in zip(("left", "right"), gradient.shape, strict=True):
        if length <= LARGEST_SIDE:
            state[side] = gradient.new_zeros(length, length)
    add_statistics(state, gradient, second)
    for side in sides(state):
        _, basis = torch.linalg.eigh(_decomposable(state[side]))
        state[f"{side}_basis"] = basis.flip(1).contiguous().to(gradient.device)


def sides(state: dict[str, torch.Tensor]) -> list[str]:
    """Return the sides of a matrix of which statistics are kept: "left" for its rows, "right" for its columns.

    Args:
        state: State of the matrix.
    """
    return [side for side in ("left", "right") if side in state]


def add_statistics(state: dict[str, torch.Tensor], gradient: torch.Tensor, second: float) -> None:
    """Add the products of a gradient with itself to the moving averages of both sides.

    Args:
        state: State of the matrix.
        gradient: Gradient of the matrix.
        second: Decay rate of the moving averages.
    """
    for side in sides(state):
        product = gradient @ gradient.T if side == "left" else gradient.T @ gradient
        state[side].lerp_(product, 1.0 - second)


def _rotated(matrix: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a matrix in the coordinates of the bases; a new tensor in any case."""
    matrix = state["left_basis"].T @ matrix if "left" in state else matrix.clone()
    return matrix @ state["right_basis"] if "right" in state else matrix


def _rotated_back(matrix: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    matrix = state["left_basis"] @ matrix if "left" in state else matrix
    return matrix @ state["right_basis"].T if "right" in state else matrix


def _improve_bases(state: dict[str, torch.Tensor]) -> None:
    """Take one step of the orthogonal iteration, with the basis in the order of the estimated eigenvalues."""
    for axis, side in enumerate(("left", "right")):
        if side not in state:
            continue
        basis = state[f"{side}_basis"]
        product = state[side] @ basis
        order = torch.argsort((basis * product).sum(0), descending=True, stable=True)
        # The second moments belong to the axes, and are put in the same order.
        state["exp_avg_sq"].copy_(state["exp_avg_sq"].index_select(axis, order))
        basis.copy_(torch.linalg.qr(_decomposable(product.index_select(1, order)))[0])


def _decomposable(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix where it can be decomposed: on the CPU if it is on MPS, which has no such functions."""
    return matrix.cpu() if matrix.device.type == "mps" else matrix

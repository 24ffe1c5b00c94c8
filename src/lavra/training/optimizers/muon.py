"""Muon: updates of matrices whose singular values are all made alike (Jordan et al. 2024), in three iterations.

The optimiser is `torch.optim.Muon` in everything but how the nearest semi-orthogonal matrix is found. Instead of five
iterations with one polynomial, three are made, each with the odd quintic that is best for the singular values that the
one before leaves (Polar Express, arXiv 2505.16932). Before them rows are scaled to near-orthogonality by the Gram
matrix that the first iteration needs anyway (almost-orthogonal Lipschitz scaling, arXiv 2208.03160). In a small model
on a CPU five iterations are a fifth of a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from lavra.training.optimizers.adamw import WeightGroups

POLYNOMIALS = (
    (7.89766, -22.84902, 16.83297),
    (3.40679, -2.55405, 0.51748),
    (2.38302, -1.74188, 0.42673),
)
"""(a, b, c) of a x + b x^3 + c x^5, one an iteration: those that minimise the largest |1 - p(x)| over singular values
from .015 to 1, then over what the one before made of that interval. In the end they lie between .84 and 1.16; smaller
ones are multiplied by up to 64."""


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix of the same singular vectors, nearly, whose larger singular values are near 1.

    Args:
        matrix: (rows, columns), any type.

    Returns:
        bfloat16, of the same shape; zero rows (of the shorter side) stay zero.
    """
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    gram = x @ x.T
    # Sums of a row bound its singular values (Gershgorin); scaled by them, none is above 1.
    scale = gram.float().abs().sum(1).clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    x = x * scale[:, None].to(x.dtype)
    gram = (gram * (scale[:, None] * scale)).to(x.dtype)
    for number, (a, b, c) in enumerate(POLYNOMIALS):
        gram = x @ x.T if number else gram
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(WeightGroups):
    """Momentum whose update is orthogonalised, with decoupled weight decay.

    Args:
        groups: matrices, or groups of them; see `WeightGroups`.
        lr: rate; multiplied by sqrt(rows / columns) for tall matrices.
        momentum: Nesterov's.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, weight: torch.Tensor, rate: float, momentum: float, decay: float) -> None:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1.0 - momentum)
        update = orthogonalized(gradient.lerp(average, momentum))
        weight.mul_(1.0 - rate * decay)
        weight.add_(update, alpha=-rate * math.sqrt(max(1.0, weight.shape[0] / weight.shape[1])))

"""AdamW with a state of 8 bits (Dettmers et al. 2021, arXiv 2110.02861), by the kernels of bitsandbytes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from lavra.core.errors import InputError
from lavra.training.optimizers.adamw import EachWeight

SMALLEST = 4096
"""Fewest elements of a weight whose state is kept in 8 bits; of smaller ones there is nothing to save."""

_BLOCK = 256
"""Elements that share one scale, as the kernels of bitsandbytes have it."""


class AdamW8bit(EachWeight):
    """AdamW whose two moving averages are kept in 8 bits, in blocks of 256 with a scale each.

    The numbers are quantised dynamically: small ones are as exact as large ones, relative to their size. Embeddings
    need a state of 32 bits, because their gradients are sparse and of very different sizes; they belong to another
    optimiser, and so do weights of fewer than 4,096 elements.

    Args:
        groups: Weights or parameter groups, see `WeightGroups`.
        lr: Learning rate.
        betas: Decay rates of the moving averages of the gradient and of the squared gradient.
        eps: Constant added to the denominator. A second moment that is rounded to 0 in 8 bits would otherwise make a
            step without a limit.
        weight_decay: Decoupled weight decay: each step multiplies the weights by 1 - lr * weight_decay.

    Raises:
        InputError: If bitsandbytes is not installed.
    """

    on_cpu = frozenset({"step"})

    def __init__(
        self,
        groups: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        signed, unsigned = _codes()
        self._codes = {"exp_avg": torch.tensor(signed), "exp_avg_sq": torch.tensor(unsigned)}

    def _update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self._state_of(weight)
        state["step"] += 1
        codes = {name: code.to(weight.device) for name, code in self._codes.items()}
        self._codes = codes
        torch.ops.bitsandbytes.optimizer_update_8bit_blockwise(
            "adam",
            gradient.contiguous(),
            weight,
            state["exp_avg"],
            state["exp_avg_sq"],
            group["betas"][0],
            group["betas"][1],
            0.0,
            0.0,
            group["eps"],
            int(state["step"]),
            group["lr"],
            codes["exp_avg"],
            codes["exp_avg_sq"],
            state["exp_avg_scale"],
            state["exp_avg_sq_scale"],
            group["weight_decay"],
            1.0,
            False,
        )

    def _state_of(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(weight, dtype=torch.uint8)
                blocks = -(-weight.numel() // _BLOCK)
                state[f"{name}_scale"] = torch.zeros(blocks, dtype=torch.float32, device=weight.device)
        return state


@cache
def _codes() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the numbers that 8 bits stand for, with a sign and without."""
    try:
        with _disable_current_modes():  # a plan makes optimisers of tensors without values, and these have some
            from bitsandbytes.functional import create_dynamic_map

            signed, unsigned = create_dynamic_map(signed=True), create_dynamic_map(signed=False)
            return tuple(signed.tolist()), tuple(unsigned.tolist())
    except ImportError as error:
        raise InputError(
            "adamw-8bit needs the library bitsandbytes", "pip install 'lavra[finetune]', or choose adamw"
        ) from error

"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) on torch's fused kernels, which prove themselves at first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

from lavra.core.progress import say
from lavra.models.native.agreement import Reference, can_be_compared

# What optimisers have in common: groups of weights with settings, and a state for each weight.


class WeightGroups(ABC):
    """The interface of `torch.optim.Optimizer`, without the compiler that its first use imports, which takes a second.

    Args:
        groups: mappings with `params` and what differs from the defaults, or weights that share the defaults.
        defaults: settings of all groups, such as `lr`.

    Attributes:
        param_groups: the groups, each with its weights as `params` and all its settings.
        state: tensors by name, by weight.
    """

    def __init__(self, groups: Iterable[Any], **defaults: Any) -> None:
        given = list(groups)
        if given and isinstance(given[0], torch.Tensor):
            given = [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [
            {**defaults, **group, "params": list(group["params"])} for group in given
        ]
        self.state: defaultdict[torch.Tensor, dict[str, torch.Tensor]] = defaultdict(dict)

    @abstractmethod
    def step(self) -> None:
        """Update every weight that has a gradient."""


# AdamW (Loshchilov and Hutter, arXiv 1711.05101) on torch's fused kernels, which prove themselves at first.

_PROOF_NUMBERS = 1 << 14
"""Numbers of each weight that the proof looks at, at most."""


class AdamW(WeightGroups):
    """`torch.optim.AdamW(fused=True)`, bit for bit.

    Args:
        groups: see `WeightGroups`; settings: lr, betas, eps, weight_decay.

    Attributes:
        fused: whether the fused kernel is taken; False once it was found to be wrong.
    """

    def __init__(
        self,
        groups: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.fused = True
        self._proved = False

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight that has a gradient, a kernel for each group."""
        proving, self._proved = not self._proved, True
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                states = [self._state_of(weight) for weight in weights]
                torch._foreach_add_([state["step"] for state in states], 1)
                if proving:
                    self._prove(weights, states, group)
                (fused_update if self.fused else plain_update)(
                    weights, [weight.grad for weight in weights if weight.grad is not None], states, group
                )

    def _prove(self, weights: list[torch.Tensor], states: list[dict[str, torch.Tensor]], group: dict[str, Any]) -> None:
        """Compare the fused update with the plain one on a part of each weight, and give it up if it is wrong."""
        wrong = wrong_update(weights, states, group) if can_be_compared(weights[0]) else None
        if wrong is not None:
            self.fused = False
            say(f"optimiser: the fused kernel of AdamW is wrong on this machine ({wrong}); the plain update is taken")

    def _state_of(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state


def fused_update(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    states: list[dict[str, torch.Tensor]],
    group: dict[str, Any],
) -> None:
    """Update weights and states in place by one kernel; the states' steps count this one already."""
    torch._fused_adamw_(
        weights,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def plain_update(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    states: list[dict[str, torch.Tensor]],
    group: dict[str, Any],
) -> None:
    """Do what `fused_update` does, an operation after the other (algorithm 2 of the paper)."""
    first, second = group["betas"]
    for weight, gradient, state in zip(weights, gradients, states, strict=True):
        weight.mul_(1.0 - group["lr"] * group["weight_decay"])
        mean = state["exp_avg"].lerp_(gradient, 1.0 - first)
        square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        mean_share, square_share = 1.0 - first ** state["step"], 1.0 - second ** state["step"]
        weight.sub_(group["lr"] / mean_share * mean / ((square / square_share).sqrt_().add_(group["eps"])))


def wrong_update(
    weights: list[torch.Tensor], states: list[dict[str, torch.Tensor]], group: dict[str, Any]
) -> str | None:
    """Return in words what is wrong with the fused update of these weights by their gradients; None if nothing is.

    It is compared with the plain update, and both with the same in float64, on the first numbers of each weight.
    """

    def updated(update: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        def part(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.detach().reshape(-1)[:_PROOF_NUMBERS].to(dtype, copy=True)

        parts = [part(weight) for weight in weights]
        gradients = [part(weight.grad) for weight in weights if weight.grad is not None]
        copies = [
            {name: tensor.clone() if name == "step" else part(tensor) for name, tensor in state.items()}
            for state in states
        ]
        before = [weight.to(wide) for weight in parts]
        update(parts, gradients, copies, group)
        moved = torch.cat([after.to(wide) - old for after, old in zip(parts, before, strict=True)])
        return {
            "the change of the weights": moved,
            "the mean gradient": torch.cat([state["exp_avg"] for state in copies]).to(wide),
            "the mean squared gradient": torch.cat([state["exp_avg_sq"] for state in copies]).to(wide),
        }

    wide = torch.float32 if weights[0].device.type == "mps" else torch.float64
    kind = weights[0].dtype
    reference = Reference(updated(plain_update, wide), updated(plain_update, kind), kind)
    try:
        return reference.disagreement(updated(fused_update, kind))
    except (RuntimeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"

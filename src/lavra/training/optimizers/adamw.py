"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) on torch's fused kernel, which is verified at the first step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch

from lavra.core.progress import log
from lavra.models.native.agreement import Reference, can_be_compared

# What the optimisers have in common: groups of weights with settings, and a state for each weight.


class WeightGroups(ABC):
    """Base class of the optimisers, with the attributes of `torch.optim.Optimizer`.

    It does not derive from torch's class because the first use of that class imports the compiler, which takes about a
    second.

    Args:
        groups: Weights that share the defaults; or parameter groups, i.e. mappings with the weights as `params` and
            those settings that differ from the defaults.
        defaults: Settings of all groups, such as `lr`.

    Attributes:
        param_groups: List of groups, each a mapping with the weights as `params` and every setting by name.
        state: For each weight, its state tensors by name; a weight without an update yet has none.
        heavy: Whether the update of a matrix takes long on a CPU, so that the checks before a run update large models a
            part at a time.
        on_cpu: Names of the state tensors that stay on the CPU, wherever the weight is: numbers that are read in every
            step.
    """

    heavy: ClassVar[bool] = False
    on_cpu: ClassVar[frozenset[str]] = frozenset()

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


def learning(group: Mapping[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the weights of a group that have a gradient, and their gradients in the same order.

    Args:
        group: Parameter group.
    """
    weights = [weight for weight in group["params"] if weight.grad is not None]
    return weights, [weight.grad for weight in weights if weight.grad is not None]


class EachWeight(WeightGroups):
    """Base class of the optimisers that update one weight after the other."""

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            for weight, gradient in zip(*learning(group), strict=True):
                self._update(weight, gradient, group)

    @abstractmethod
    def _update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        """Update a weight and its state in place, with the settings of its group."""


# AdamW itself.

_PROOF_NUMBERS = 1 << 14
"""Number of elements of each weight, at most, on which the fused kernel is verified: enough to meet a wrong one, and
little against a step."""


class AdamW(WeightGroups):
    """AdamW with the fused kernel of `torch.optim.AdamW(fused=True)`, and bit for bit the same results.

    At the first step the kernel is compared with a plain implementation. If it is wrong on this machine, a line says
    so and the plain implementation is used.

    Args:
        groups: Weights or parameter groups, see `WeightGroups`; a group may set lr, betas, eps and weight_decay.
        lr: Learning rate.
        betas: Decay rates of the moving averages of the gradient and of the squared gradient.
        eps: Constant added to the denominator, against division by zero.
        weight_decay: Decoupled weight decay: each step multiplies the weights by 1 - lr * weight_decay.

    Attributes:
        fused: True while the fused kernel is used; False once it was found to be wrong.

    Examples:
        >>> weight = torch.ones(2)
        >>> weight.grad = torch.ones(2)
        >>> AdamW([weight], lr=0.1, weight_decay=0.0).step()
        >>> weight
        tensor([0.9000, 0.9000])
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
        """Update every weight that has a gradient, with one kernel call for each group."""
        proving, self._proved = not self._proved, True
        for group in self.param_groups:
            weights, gradients = learning(group)
            if weights:
                states = [self._state_of(weight) for weight in weights]
                torch._foreach_add_([state["step"] for state in states], 1)
                if proving:
                    self._prove(weights, states, group)
                (fused_update if self.fused else plain_update)(weights, gradients, states, group)

    def _prove(self, weights: list[torch.Tensor], states: list[dict[str, torch.Tensor]], group: dict[str, Any]) -> None:
        """Compare the fused update with the plain one on a part of each weight, and disable it if it is wrong."""
        wrong = wrong_update(weights, states, group) if can_be_compared(weights[0]) else None
        if wrong is not None:
            self.fused = False
            log(f"optimiser: the fused AdamW kernel is wrong on this machine ({wrong}); the plain update is used")

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
    """Update weights and states in place with one fused kernel.

    Args:
        weights: Weights to update, all of one dtype.
        gradients: Their gradients, in the same order.
        states: Their states, with `step` (which counts the current step already), `exp_avg` and `exp_avg_sq`.
        group: Settings `lr`, `betas`, `eps` and `weight_decay`.
    """
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
    """Do what `fused_update` does, one operation after the other; the arguments are the same."""
    # Algorithm 2 of arXiv 1711.05101: decoupled weight decay, then Adam's step with bias-corrected moments.
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
    """Return what is wrong with the fused update of these weights, in words, or None if it is right.

    The fused update and the plain one are both compared with the plain update in float64 (float32 on MPS), on the first
    elements of each weight. The fused one is wrong if it is much further from it than the plain one.

    Args:
        weights: Weights with gradients; they are not changed.
        states: Their states, see `fused_update`; they are not changed.
        group: Settings `lr`, `betas`, `eps` and `weight_decay`.
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

"""Optimisers: Muon for the matrices inside the blocks, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lavra.core.errors import Damaged
from lavra.training.choices import OptimizerName


@dataclass(frozen=True)
class OptimizerOptions:
    """Which optimiser, how fast.

    Attributes:
        name: `muon` orthogonalises the updates of the blocks' matrices (Jordan et al. 2024; `torch.optim.Muon`) and
            leaves embeddings, head, norms and biases to AdamW; `adamw` does all of it.
        learning_rate: peak rate of AdamW.
        matrix_learning_rate: peak rate of Muon.
        weight_decay: decoupled decay of matrices; norms, biases and embeddings are never decayed.
        matrix_weight_decay: the same for Muon's matrices.
        betas: AdamW's averaging.
        momentum: Muon's.
    """

    name: OptimizerName = "muon"
    learning_rate: float = 3e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.0
    matrix_weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95


class Optimizers:
    """The optimisers of a run over its named master weights, as one.

    Args:
        weights: fp32 tensors by parameter name.
        options: which optimiser.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], options: OptimizerOptions) -> None:
        self.names = {id(weight): name for name, weight in weights.items()}
        matrices = [name for name, weight in weights.items() if weight.dim() == 2 and "embedding" not in name]
        orthogonal = [name for name in matrices if options.name == "muon" and "blocks." in name]
        decayed = [name for name in matrices if name not in orthogonal]
        plain = [name for name in weights if name not in orthogonal and name not in decayed]
        groups = [
            {"params": [weights[name] for name in decayed], "weight_decay": options.weight_decay},
            {"params": [weights[name] for name in plain], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = []
        if orthogonal:
            self.optimizers.append(
                torch.optim.Muon(
                    [weights[name] for name in orthogonal],  # pyright: ignore[reportArgumentType]
                    lr=options.matrix_learning_rate,
                    weight_decay=options.matrix_weight_decay,
                    momentum=options.momentum,
                )
            )
        groups = [group for group in groups if group["params"]]
        if groups:
            fused = all(weight.device.type in ("cpu", "cuda") for weight in weights.values())
            self.optimizers.append(
                torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, eps=1e-10, fused=fused)
            )
        self.rates = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in self.optimizers]

    @property
    def learning_rate(self) -> float:
        """The rate of the last optimiser (AdamW, where there is one) at present."""
        return float(self.optimizers[-1].param_groups[0]["lr"])

    def step(self, factor: float) -> None:
        """Update the weights from their gradients, at `factor` times the peak rates."""
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all state tensors, named `parameter|state`."""
        return {
            f"{self.names[id(weight)]}|{key}": value
            for optimizer in self.optimizers
            for weight, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `tensors` returned, also an empty state.

        Raises:
            Damaged: if a tensor belongs to no weight.
        """
        by_name: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            weight, key = name.rsplit("|", 1)
            by_name.setdefault(weight, {})[key] = tensor
        for optimizer in self.optimizers:
            optimizer.state.clear()
            for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
                state: dict[str, Any] = by_name.pop(self.names[id(weight)], {})
                if state:
                    # The step count of fused AdamW stays on the weight's device; momenta have the weight's shape.
                    optimizer.state[weight] = {
                        key: tensor.to(weight.device, copy=True) for key, tensor in state.items()
                    }
        if by_name:
            raise Damaged(f"the checkpoint's optimiser has state for unknown weights: {', '.join(sorted(by_name)[:5])}")

"""Optimisers: Muon for the matrices inside the blocks, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lavra.config.choices import OptimizerName
from lavra.core.errors import Damaged, InputError
from lavra.models.parameter_names import block_of, depths, is_adapter, is_embedding
from lavra.training.optimizers.adamw import AdamW, WeightGroups
from lavra.training.optimizers.muon import Muon


@dataclass(frozen=True)
class OptimizerOptions:
    """Which optimiser, how fast.

    Attributes:
        name: `muon` orthogonalises the updates of the blocks' matrices (`lavra.training.optimizers.muon`) and
            leaves embeddings, head, norms and biases to AdamW; `adamw` does all of it.
        learning_rate: peak rate of AdamW.
        embedding_learning_rate: peak rate of AdamW for embeddings; None: `learning_rate`. A row of an embedding of unit
            variance that a norm follows must turn by a good part of its length to say something else, and learns in
            few steps only, those in which its token occurs: it needs a far larger rate than a head that begins at zero.
        matrix_learning_rate: peak rate of Muon.
        weight_decay: decoupled decay of matrices; norms, biases and embeddings are never decayed.
        matrix_weight_decay: the same for Muon's matrices.
        betas: AdamW's averaging.
        momentum: Muon's.
        layer_decay: the rates of block i of n, from 0, are multiplied by its (n - i)th power, and those of embeddings
            by its (n + 1)th, so that what an adapted model knows in general changes least (ELECTRA, arXiv 2003.10555).
            1 is the same rate everywhere.
    """

    name: OptimizerName = "muon"
    learning_rate: float = 3e-3
    embedding_learning_rate: float | None = None
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.0
    matrix_weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.layer_decay <= 1.0:
            raise InputError(f"the layer decay is {self.layer_decay}; it must be above 0 and at most 1")


def layer_factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Return what each parameter's learning rate is multiplied by; see `OptimizerOptions.layer_decay`.

    The stacks of an encoder-decoder are counted each by itself; heads and last norms keep the whole rate.
    """
    names = list(names)
    depth = depths(names)
    factors: dict[str, float] = {}
    for name in names:
        place = block_of(name)
        if place is not None:
            factors[name] = decay ** (depth[place[0]] - place[1])
        else:
            factors[name] = decay ** (max(depth.values(), default=0) + 1) if is_embedding(name) else 1.0
    return factors


def _role(name: str, weight: torch.Tensor, optimizer: OptimizerName) -> str:
    """Return `orthogonal` for what Muon takes; for AdamW `decayed` matrices, `embedding`, and `plain` for the rest."""
    if weight.dim() == 2 and is_embedding(name):
        return "embedding"
    if weight.dim() != 2:
        return "plain"
    if is_adapter(name):  # factors of IA³ and prefixes are matrices by their shape only
        return "decayed" if ".lora_" in name else "plain"
    return "orthogonal" if optimizer == "muon" and block_of(name) else "decayed"


class Optimizers:
    """The optimisers of a run over its named master weights, as one.

    Args:
        weights: fp32 tensors by parameter name.
        options: which optimiser.

    Attributes:
        learning_rate: AdamW's at present, where neither a layer's factor nor a rate of its own changes it.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], options: OptimizerOptions) -> None:
        self.names = {id(weight): name for name, weight in weights.items()}
        factors = layer_factors(weights, options.layer_decay)
        roles = {name: _role(name, weight, options.name) for name, weight in weights.items()}

        def groups(role: str, rate: float, **settings: float) -> list[dict[str, Any]]:
            """Return the weights of one role, a group for each rate, the largest rate first."""
            names = [name for name in weights if roles[name] == role]
            return [
                {
                    "params": [weights[name] for name in names if factors[name] == factor],
                    "lr": rate * factor,
                    **settings,
                }
                for factor in sorted({factors[name] for name in names}, reverse=True)
            ]

        self.optimizers: list[WeightGroups] = []
        matrices = groups("orthogonal", options.matrix_learning_rate, weight_decay=options.matrix_weight_decay)
        if matrices:
            self.optimizers.append(Muon(matrices, momentum=options.momentum))
        rest = groups("decayed", options.learning_rate, weight_decay=options.weight_decay)
        rest += groups("plain", options.learning_rate, weight_decay=0.0)
        embeddings = options.embedding_learning_rate
        rest += groups("embedding", options.learning_rate if embeddings is None else embeddings, weight_decay=0.0)
        if rest:
            self.optimizers.append(AdamW(rest, betas=options.betas, eps=1e-10))
        self.peak = self.learning_rate = options.learning_rate
        self.rates = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, factor: float) -> None:
        """Update the weights from their gradients, at `factor` times the peak rates."""
        self.learning_rate = self.peak * factor
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

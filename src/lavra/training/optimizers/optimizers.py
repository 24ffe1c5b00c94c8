"""The optimisers of a run: Muon for the matrices inside the blocks, AdamW for all other weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lavra.config.choices import OptimizerName
from lavra.core.errors import CorruptFile, InputError
from lavra.models.parameter_names import block_of, depths, is_adapter, is_embedding
from lavra.training.optimizers.adamw import AdamW, WeightGroups
from lavra.training.optimizers.muon import Muon


@dataclass(frozen=True)
class OptimizerOptions:
    """Choice of the optimiser and its hyperparameters.

    Attributes:
        name: `muon` updates the matrices inside the blocks with Muon (`lavra.training.optimizers.muon`) and
            embeddings, head, norms and biases with AdamW; `adamw` updates all weights with AdamW.
        learning_rate: Peak learning rate of AdamW.
        embedding_lr: Peak learning rate of AdamW for embeddings; None uses `learning_rate`. Embeddings need
            a far larger rate than a head that starts at zero: their rows have unit variance and are followed by a norm,
            so a row must turn by a large angle to change its meaning, and it is updated only in the steps in which its
            token occurs.
        muon_lr: Peak learning rate of Muon.
        weight_decay: Decoupled weight decay of the matrices that AdamW updates. Norms, biases and embeddings are never
            decayed.
        muon_weight_decay: Decoupled weight decay of the matrices that Muon updates.
        betas: Decay rates of AdamW's moving averages of the gradient and of the squared gradient.
        momentum: Decay rate of Muon's moving average of the gradient.
        layer_decay: Layer-wise learning-rate decay for fine-tuning (ELECTRA, arXiv 2003.10555), above 0 and at most 1.
            The rates of block i of n, counted from 0, are multiplied by its power n - i, and those of embeddings by its
            power n + 1, so that the general knowledge in the lower layers changes least. 1 gives every layer the same
            rate.

    Raises:
        InputError: if `layer_decay` is out of range.
    """

    name: OptimizerName = "muon"
    learning_rate: float = 3e-3
    embedding_lr: float | None = None
    muon_lr: float = 0.02
    weight_decay: float = 0.0
    muon_weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.layer_decay <= 1.0:
            raise InputError(f"the layer decay is {self.layer_decay}; it must be above 0 and at most 1")


def layer_factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter, by name; see `OptimizerOptions.layer_decay`.

    Encoder and decoder of an encoder-decoder model are counted separately. Heads and final norms have the factor 1.

    Args:
        names: Names of all parameters of the model, from which the number of blocks is read.
        decay: Factor from one block to the one below it.

    Examples:
        >>> layer_factors(["blocks.0.mlp.up.weight", "blocks.1.mlp.up.weight", "output.weight"], 0.5)
        {'blocks.0.mlp.up.weight': 0.25, 'blocks.1.mlp.up.weight': 0.5, 'output.weight': 1.0}
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
    """Return how a weight is updated: `orthogonal` by Muon; `decayed`, `embedding` or `plain` (no decay) by AdamW."""
    if weight.dim() == 2 and is_embedding(name):
        return "embedding"
    if weight.dim() != 2:
        return "plain"
    if is_adapter(name):  # factors of IA³ and prefixes are matrices by their shape only
        return "decayed" if ".lora_" in name else "plain"
    return "orthogonal" if optimizer == "muon" and block_of(name) else "decayed"


class Optimizers:
    """All optimisers of a run, behind one interface.

    Args:
        weights: Master weights in fp32, by parameter name.
        options: Choice of the optimiser and its hyperparameters.

    Attributes:
        optimizers: Muon and AdamW, as far as each has weights to update.
        peak: Peak learning rate of AdamW.
        learning_rate: Learning rate of AdamW in the last step, before the factors of layers and embeddings.
        lrs: Peak learning rate of every parameter group of every optimiser.

    Examples:
        >>> optimizers = Optimizers({"output.weight": torch.zeros(4, 2)}, OptimizerOptions(name="adamw"))
        >>> optimizers.step(factor=0.5)
        >>> optimizers.learning_rate
        0.0015
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], options: OptimizerOptions) -> None:
        self.names = {id(weight): name for name, weight in weights.items()}
        factors = layer_factors(weights, options.layer_decay)
        roles = {name: _role(name, weight, options.name) for name, weight in weights.items()}

        def groups(role: str, lr: float, **settings: float) -> list[dict[str, Any]]:
            """Return the weights of one role, a group for each rate, the largest rate first."""
            names = [name for name in weights if roles[name] == role]
            return [
                {
                    "params": [weights[name] for name in names if factors[name] == factor],
                    "lr": lr * factor,
                    **settings,
                }
                for factor in sorted({factors[name] for name in names}, reverse=True)
            ]

        self.optimizers: list[WeightGroups] = []
        matrices = groups("orthogonal", options.muon_lr, weight_decay=options.muon_weight_decay)
        if matrices:
            self.optimizers.append(Muon(matrices, momentum=options.momentum))
        rest = groups("decayed", options.learning_rate, weight_decay=options.weight_decay)
        rest += groups("plain", options.learning_rate, weight_decay=0.0)
        embeddings = options.embedding_lr
        rest += groups("embedding", options.learning_rate if embeddings is None else embeddings, weight_decay=0.0)
        if rest:
            self.optimizers.append(AdamW(rest, betas=options.betas, eps=1e-10))
        self.peak = self.learning_rate = options.learning_rate
        self.lrs = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, factor: float) -> None:
        """Update the weights from their gradients.

        Args:
            factor: Factor on every peak learning rate, as the schedule gives it.
        """
        self.learning_rate = self.peak * factor
        for optimizer, lrs in zip(self.optimizers, self.lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
            optimizer.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the state tensors of all optimisers, named `parameter|state`, for a checkpoint."""
        return {
            f"{self.names[id(weight)]}|{key}": value
            for optimizer in self.optimizers
            for weight, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `tensors` returned; an empty mapping restores the state before the first step.

        Raises:
            CorruptFile: if a tensor belongs to a weight that the model does not have.
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
            raise CorruptFile(
                f"the checkpoint's optimiser has state for unknown weights: {', '.join(sorted(by_name)[:5])}"
            )

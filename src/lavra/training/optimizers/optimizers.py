"""The optimisers of a run: one of the table, and AdamW for the weights that it does not take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lavra.config.choices import OptimizerName
from lavra.core.errors import CorruptFile, InputError
from lavra.models.parameter_names import block_of, depths, is_adapter, is_embedding, kind_of
from lavra.training.optimizers.adamw import WeightGroups
from lavra.training.optimizers.table import METHODS, Role, rest_of


@dataclass(frozen=True)
class OptimizerOptions:
    """Choice of the optimiser and its hyperparameters.

    Attributes:
        name: Optimiser of the table (`lavra.training.optimizers.table`). `muon`, the default, updates the matrices
            inside the blocks with Muon and embeddings, head, norms and biases with AdamW; `soap` and `shampoo` take
            the same matrices, `adamw-8bit` all matrices, and the others all weights.
        learning_rate: Peak learning rate of AdamW, or of the optimiser that takes all weights.
        embedding_lr: Peak learning rate of embeddings; None uses `learning_rate`. Embeddings need a far larger rate
            than a head that starts at zero: their rows have unit variance and are followed by a norm, so a row must
            turn by a large angle to change its meaning, and it is updated only in the steps in which its token occurs.
        muon_lr: Peak learning rate of Muon.
        matrix_lr: Peak learning rate of the matrices inside the blocks for every optimiser but Muon; None uses
            `learning_rate`.
        weight_decay: Decoupled weight decay of the matrices, except those that Muon updates. Norms, biases and
            embeddings are never decayed (`lavra.models.parameter_names.kind_of`).
        muon_weight_decay: Decoupled weight decay of the matrices that Muon updates.
        betas: Decay rates of the moving averages of the gradient and of the squared gradient; None takes those of the
            optimiser.
        eps: Constant that is added to the denominator; None takes that of the optimiser.
        momentum: Decay rate of Muon's moving average of the gradient.
        embedding_gradient: Factor on the gradient that reaches the table of token embeddings from below the blocks
            (GLM-130B, arXiv 2210.02414), above 0; 1 changes nothing.
        layer_decay: Layer-wise learning-rate decay for fine-tuning (ELECTRA, arXiv 2003.10555), above 0 and at most 1.
            The rates of block i of n, counted from 0, are multiplied by its power n - i, and those of embeddings by its
            power n + 1, so that the general knowledge in the lower layers changes least. 1 gives every layer the same
            rate.

    Raises:
        InputError: if `layer_decay` is out of range, or the optimiser has no such option.
    """

    name: OptimizerName = "muon"
    learning_rate: float = 3e-3
    embedding_lr: float | None = None
    muon_lr: float = 0.02
    matrix_lr: float | None = None
    weight_decay: float = 0.0
    muon_weight_decay: float = 0.01
    betas: tuple[float, float] | None = None
    eps: float | None = None
    momentum: float = 0.95
    embedding_gradient: float = 1.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.layer_decay <= 1.0:
            raise InputError(f"the layer decay is {self.layer_decay}; it must be above 0 and at most 1")
        method = METHODS[self.name]
        wrong = "betas" if self.betas and not method.betas else "eps" if self.eps and method.eps is None else None
        if wrong is not None:
            raise InputError(f"{self.name} has no {wrong}", "leave it out, or choose adamw")


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


def role_of(name: str, weight: torch.Tensor) -> Role:
    """Return what a weight is in a run, see `Role`.

    Args:
        name: Dotted name of the parameter.
        weight: The weight.
    """
    kind = kind_of(name, weight.dim())
    if kind != "matrix":
        return "embedding" if kind == "embedding" else "plain"
    in_block = block_of(name) is not None and weight.dim() == 2 and not is_adapter(name)
    return "block" if in_block else "decayed"


_ROLES: tuple[Role, ...] = ("block", "decayed", "plain", "embedding")


def _lrs(options: OptimizerOptions) -> dict[Role, float]:
    """Return the peak learning rate of each role."""
    lr, embeddings, blocks = options.learning_rate, options.embedding_lr, options.matrix_lr
    if options.name == "muon":
        blocks = options.muon_lr
    return {
        "block": lr if blocks is None else blocks,
        "decayed": lr,
        "plain": lr,
        "embedding": lr if embeddings is None else embeddings,
    }


def _decays(options: OptimizerOptions) -> dict[Role, float]:
    """Return the weight decay of each role."""
    blocks = options.muon_weight_decay if options.name == "muon" else options.weight_decay
    return {"block": blocks, "decayed": options.weight_decay, "plain": 0.0, "embedding": 0.0}


class Optimizers:
    """All optimisers of a run, behind one interface.

    Args:
        weights: Master weights in fp32, by parameter name.
        options: Choice of the optimiser and its hyperparameters.

    Attributes:
        optimizers: The optimiser of the table and AdamW, as far as each has weights to update.
        peak: Peak learning rate of AdamW, or of the optimiser that takes all weights.
        learning_rate: That learning rate in the last step, before the factors of layers and embeddings.
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
        roles = {name: role_of(name, weight) for name, weight in weights.items()}
        method = METHODS[options.name]
        lrs, decays = _lrs(options), _decays(options)

        def groups(role: Role, taken: bool) -> list[dict[str, Any]]:
            """Return the weights of one role, a group for each rate, the largest rate first."""
            names = [
                name
                for name in weights
                if roles[name] == role and taken is (role in method.takes and weights[name].numel() >= method.smallest)
            ]
            return [
                {
                    "params": [weights[name] for name in names if factors[name] == factor],
                    "lr": lrs[role] * factor,
                    "weight_decay": decays[role],
                }
                for factor in sorted({factors[name] for name in names}, reverse=True)
            ]

        own = [group for role in _ROLES for group in groups(role, taken=True)]
        rest = [group for role in _ROLES for group in groups(role, taken=False)]
        self.optimizers: list[WeightGroups] = []
        if own:
            self.optimizers.append(method.make(own, options))
        if rest:
            self.optimizers.append(rest_of(rest, options))
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
                        key: tensor.to("cpu" if key in optimizer.on_cpu else weight.device, copy=True)
                        for key, tensor in state.items()
                    }
        if by_name:
            raise CorruptFile(
                f"the checkpoint's optimiser has state for unknown weights: {', '.join(sorted(by_name)[:5])}"
            )

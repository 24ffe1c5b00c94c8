"""The linear layer that best gives labels from vectors: a logistic or a ridge regression in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lavra.tasks.labelled_text import LabelledTextTask

_PENALTY = 20.0
"""Sum of squares of the weights on standardised features, as a weight in the summed loss."""

_STEPS = 200


def head_targets(task: LabelledTextTask, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Return what the head should give for each row, (rows, outputs): probabilities, or values in its units.

    Args:
        task: The task.
        facts: What the task knows of the data.
        rows: The columns of each row.
    """
    targets = task.targets(facts, rows)
    if task.outputs == "values":
        targets = (targets - facts["mean"]) / facts["deviation"]
    return torch.from_numpy(np.asarray(targets, np.float32))


def fitted(
    vectors: torch.Tensor, targets: torch.Tensor, outputs: str, *, bias: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and the bias of the linear layer that best gives the targets, with a small penalty.

    Args:
        vectors: Features, (n, width).
        targets: Probabilities of classes or labels, or values, (n, outputs).
        outputs: What the outputs are, see `lavra.objectives.classify.Outputs`.
        bias: Whether the layer has a bias; without one, the vectors are scaled and not centred.

    Returns:
        The weight, (outputs, width), and the bias, (outputs,).

    Examples:
        >>> weight, bias = fitted(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]]), "values")
        >>> weight.shape, bias.shape
        (torch.Size([1, 1]), torch.Size([1]))
    """
    mean = vectors.mean(0) if bias else torch.zeros_like(vectors[0])
    spread = vectors.std(0, correction=0).clamp_min(1e-6)
    scaled = (vectors - mean) / spread
    layer = nn.Linear(vectors.shape[1], targets.shape[1], bias=bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        given = layer(scaled)
        if outputs == "classes":
            value = F.cross_entropy(given, targets, reduction="sum")
        elif outputs == "labels":
            value = F.binary_cross_entropy_with_logits(given, targets, reduction="sum")
        else:
            value = (given - targets).square().sum()
        total = (value + _PENALTY * layer.weight.square().sum()) / len(vectors)
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        weight = layer.weight / spread
        return weight, layer.bias - weight @ mean if bias else torch.zeros(len(weight))

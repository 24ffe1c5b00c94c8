"""A smaller gradient of the token embeddings (GLM-130B, arXiv 2210.02414, section 3.3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from lavra.core.errors import InputError


def shrink_embedding_gradient(model: Any, factor: float) -> None:
    """Multiply the gradient that reaches the tables of token embeddings from below the blocks, from now on.

    What the model computes stays the same to the bit. The gradient that a tied head adds to the same table is not
    changed. An optimiser that divides by the size of the gradient moves the embeddings as before; what changes is their
    share in the norm by which the whole gradient is clipped, which they rule when training becomes unstable.

    Args:
        model: The model.
        factor: Factor on the gradient, above 0; 1 leaves the model alone.

    Raises:
        InputError: If no token embedding is trained.

    Examples:
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embedding = nn.Embedding(3, 1)
        >>> model = Model()
        >>> shrink_embedding_gradient(model, 0.1)
        >>> model.embedding(torch.tensor([2])).sum().backward()
        >>> model.embedding.weight.grad.flatten().tolist()
        [0.0, 0.0, 0.10000000149011612]
    """
    if factor == 1.0:
        return
    tables = [table for table in _tables(model) if table.weight.requires_grad]
    if not tables:
        raise InputError(
            "--optimization.embedding-gradient needs an embedding that is trained",
            "leave it out, or leave out what freezes the embedding (an adapter, --freeze)",
        )
    for table in tables:
        table.register_forward_hook(partial(_shrunk, factor=factor))


def _tables(model: Any) -> list[nn.Embedding]:
    """Return the tables of token embeddings, those of encoder and decoder once where they are one."""
    inner = getattr(model, "inner", None)
    if inner is None:
        return [model.embedding]
    parts = [inner, inner.get_encoder() if getattr(model, "kind", None) == "encoder-decoder" else None]
    found = [part.get_input_embeddings() for part in parts if part is not None]
    return list({id(table): table for table in found}.values())


def _shrunk(_module: nn.Module, _given: Any, embedded: torch.Tensor, *, factor: float) -> torch.Tensor:
    still = embedded.detach()
    return still + factor * (embedded - still)

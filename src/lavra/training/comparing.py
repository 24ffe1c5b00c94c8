"""Embeddings of all micro-batches and processes of a step, for objectives that compare examples with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lavra.objectives.base import in_float32
from lavra.training.batches import DistributedInfo


@dataclass(frozen=True)
class Embedded:
    """Embeddings of rows, without a gradient, and what is known of each row.

    Attributes:
        embeddings: Embeddings, (rows, dimensions) in float32.
        info: What the objective knows of the rows, (rows, …) tensors by name.
        start: Place of this process's first row among them.
        sizes: Number of rows of each of this process's micro-batches, which follow each other from `start`.
    """

    embeddings: torch.Tensor
    info: dict[str, torch.Tensor]
    start: int
    sizes: tuple[int, ...]

    def own(self, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the part of a (rows, dimensions) gradient for each of this process's micro-batches."""
        return gradient[self.start : self.start + sum(self.sizes)].split(list(self.sizes))


def put_together(parts: Sequence[tuple[torch.Tensor, dict[str, torch.Tensor]]]) -> Embedded:
    """Return the rows of several micro-batches as one, in their order.

    Args:
        parts: Embeddings and info of each micro-batch; at least one.
    """
    return Embedded(
        torch.cat([in_float32(embeddings.detach()) for embeddings, _ in parts]),
        {name: torch.cat([info[name] for _, info in parts]) for name in parts[0][1]},
        0,
        tuple(len(embeddings) for embeddings, _ in parts),
    )


def gather(own: Embedded, distributed: DistributedInfo) -> Embedded:
    """Return the rows of all processes, in their order; every process must call this.

    Args:
        own: Rows of this process; their number may differ between processes.
        distributed: Place of this process.
    """
    if distributed.world_size == 1:
        return own
    counts = [torch.zeros(1, dtype=torch.int64, device=own.embeddings.device) for _ in range(distributed.world_size)]
    torch.distributed.all_gather(counts, torch.full_like(counts[0], len(own.embeddings)))
    rows = [int(count) for count in counts]
    return Embedded(
        _gathered(own.embeddings, rows),
        {name: _gathered(own.info[name], rows) for name in sorted(own.info)},
        sum(rows[: distributed.rank]),
        own.sizes,
    )


def _gathered(own: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Return a tensor's rows of all processes; each process sends as many as the one with most has."""
    padded = own.new_zeros(max(rows), *own.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in rows]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

"""Distributed data-parallel training with `torchrun`: joining the process group, and reductions over all processes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from lavra.training.batches import DistributedInfo


def join_ranks(device: torch.device) -> DistributedInfo:
    """Join the process group that `torchrun` started this process in, and return the place of this process in it.

    Args:
        device: Device that trains. The backend is NCCL for CUDA and Gloo otherwise.

    Returns:
        Rank and world size; rank 0 of 1 without `torchrun`.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return DistributedInfo()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return DistributedInfo(torch.distributed.get_rank(), world)


def sums_over_ranks(values: Sequence[float], distributed: DistributedInfo) -> list[float]:
    """Return the sum of each of the values over all processes (one all-reduce); every process must call this."""
    return list(values) if distributed.world_size == 1 else _reduced(values, torch.distributed.ReduceOp.SUM)


def max_over_ranks(value: float, distributed: DistributedInfo) -> float:
    """Return the maximum of `value` over all processes (an all-reduce); every process must call this."""
    return value if distributed.world_size == 1 else _reduced([value], torch.distributed.ReduceOp.MAX)[0]


def wait_for_ranks(distributed: DistributedInfo) -> None:
    """Wait until every process has called this function (a barrier)."""
    if distributed.world_size > 1:
        torch.distributed.barrier()


def _reduced(values: Sequence[float], operation: torch.distributed.ReduceOp.RedOpType) -> list[float]:
    tensor = torch.tensor(list(values), dtype=torch.float64)
    if torch.distributed.get_backend() == "nccl":
        tensor = tensor.cuda()
    torch.distributed.all_reduce(tensor, operation)
    return tensor.tolist()

"""Several processes that train one model together (`torchrun`): who am I, and sums over all."""

from __future__ import annotations

import os

import torch

from lavra.training.batches import Ranks


def join_ranks(device: torch.device) -> Ranks:
    """Join the group that `torchrun` started this process in; alone without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Ranks(torch.distributed.get_rank(), world)


def sum_over_ranks(value: float, ranks: Ranks) -> float:
    """Return the sum of a Python number over all ranks."""
    return value if ranks.world == 1 else _reduced(value, torch.distributed.ReduceOp.SUM)


def max_over_ranks(value: float, ranks: Ranks) -> float:
    """Return the largest of a Python number over all ranks."""
    return value if ranks.world == 1 else _reduced(value, torch.distributed.ReduceOp.MAX)


def wait_for_ranks(ranks: Ranks) -> None:
    """Wait until every rank has come here."""
    if ranks.world > 1:
        torch.distributed.barrier()


def _reduced(value: float, operation: torch.distributed.ReduceOp.RedOpType) -> float:
    tensor = torch.tensor(value, dtype=torch.float64)
    if torch.distributed.get_backend() == "nccl":
        tensor = tensor.cuda()
    torch.distributed.all_reduce(tensor, operation)
    return float(tensor)

"""The memory that training will take, known before anything is allocated: a step is rehearsed with fake tensors."""

from __future__ import annotations

import resource
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lavra.planning.machine.dry_run import Rehearsal, chunks_of_a_gpu, fake_tensors

# How much memory tensors hold at each moment: a ledger of storages, for real tensors and for fake ones alike.

CUDA_BLOCK = 512
"""Bytes to which CUDA's caching allocator rounds each tensor."""


@dataclass
class Storage:
    """One storage in the ledger.

    Attributes:
        size: bytes.
        born: number of the operation that made it.
        died: number of the operation before which it was let go; None while it lives.
        shape: of the tensor that it was first seen as.
    """

    size: int
    born: int
    died: int | None
    shape: tuple[int, ...]


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of every storage from its first operation until nothing holds it any more.

    Storages are counted once, however many views they have; what only lives inside a kernel is not seen. Under a
    `FakeTensorMode` around it nothing is computed or allocated, and numbers asked of tensors are all 1.

    Args:
        fake: answer questions for a number (`float(loss)`) with 1, as tensors without values must.
        block: sizes are rounded up to a multiple of this many bytes.

    Attributes:
        live: bytes now.
        peak: most bytes so far.
        peak_at: the operation at which that was.
    """

    def __init__(self, *, fake: bool = False, block: int = 1) -> None:
        super().__init__()
        self.fake, self.block = fake, block
        self.live = self.peak = self.peak_at = self.operation = 0
        self.storages: list[Storage] = []
        self._numbers: dict[int, int] = {}  # of the storages alive, by their address as C++ objects

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and enter what it made."""
        if self.fake and func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].dtype.is_floating_point else 1
        self.operation += 1
        result = func(*args, **(kwargs or {}))
        self.enter(tree_leaves(result))
        return result

    def enter(self, values: Iterable[Any]) -> None:
        """Enter the storages of tensors that are not known yet."""
        for value in values:
            if isinstance(value, torch.Tensor) and value.device.type != "meta":
                self._enter(value.untyped_storage(), tuple(value.shape))

    def _enter(self, storage: torch.UntypedStorage, shape: tuple[int, ...]) -> None:
        address = storage._cdata
        if address in self._numbers:
            return
        size = -(-storage.nbytes() // self.block) * self.block
        number = len(self.storages)
        self.storages.append(Storage(size, self.operation, None, shape))
        self._numbers[address] = number
        weakref.finalize(storage, self._leave, address, number)
        self.live += size
        if self.live > self.peak:
            self.peak, self.peak_at = self.live, self.operation

    def _leave(self, address: int, number: int) -> None:
        if self._numbers.get(address) != number:
            return
        del self._numbers[address]
        self.storages[number].died = self.operation + 1
        self.live -= self.storages[number].size

    def of(self, tensors: Iterable[torch.Tensor]) -> set[int]:
        """Return the numbers in `storages` of the storages of `tensors`."""
        addresses = (tensor.untyped_storage()._cdata for tensor in tensors)
        return {self._numbers[address] for address in addresses if address in self._numbers}

    def at_peak(self) -> list[int]:
        """Return the numbers of the storages that were alive at the peak."""
        peak = self.peak_at
        return [
            number
            for number, storage in enumerate(self.storages)
            if storage.born <= peak and (storage.died is None or storage.died > peak)
        ]


# The memory that training will take, known before anything is allocated: a step is rehearsed with fake tensors.

_STEPS = 2
"""The optimiser's state is made in the first step, so the second is the one that stays."""

SPARE = {"cpu": (1.3, 192 << 20), "cuda": (1.06, 768 << 20)}
"""What a process takes for `b` bytes of tensors: factor x b + constant. CPU: gaps in the heap and buffers of libraries,
from the growth of fresh processes (see the lab notebook); CUDA: context, workspaces of cuBLAS, and gaps."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What one training step holds at its peak, in bytes.

    Attributes:
        micro_rows: rows of a micro-batch.
        weights: the working weights that the model computes with, frozen ones included, and its buffers.
        masters: fp32 originals where the working weights are shorter.
        gradients: of the learned weights, in the working and the master precision.
        optimizer: its state.
        logits: of a chunk, with their gradient and the head's.
        activations: everything else: what the backward pass needs, and temporary results.
        peak: the sum.
        process: what the process will take for it.
    """

    micro_rows: int
    weights: int
    masters: int
    gradients: int
    optimizer: int
    logits: int
    activations: int
    peak: int
    process: int

    def fits(self, memory: float) -> bool:
        """Say whether a process with this much memory to itself can do the step."""
        return self.process <= memory

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def estimate_memory(rehearsal: Rehearsal, micro_rows: int) -> MemoryEstimate:
    """Return what a training step takes, by a rehearsal without values.

    Args:
        rehearsal: model, precision, optimiser, edits.
        micro_rows: rows of a micro-batch.

    Raises:
        InputError: if the model or an edit is wrong.
    """
    block = CUDA_BLOCK if rehearsal.gpu else 1
    with fake_tensors(), LiveMemory(fake=True, block=block) as ledger:
        return memory_of_step(rehearsal, micro_rows, ledger)


def memory_of_step(
    rehearsal: Rehearsal, micro_rows: int, ledger: LiveMemory, make: Callable[[], nn.Module] | None = None
) -> MemoryEstimate:
    """Return what a step takes by the ledger in which it is run: in rehearsal, or with values if `make` builds them."""
    trainer = rehearsal.trainer(micro_rows, make)
    with chunks_of_a_gpu(rehearsal.gpu):
        for _ in range(_STEPS):
            trainer.run_step()
    masters = trainer.masters
    model: Any = trainer.model
    groups = {
        "weights": ledger.of([*model.parameters(), *model.buffers()]),
        "optimizer": ledger.of(trainer.optimizers.tensors().values()),
    }
    groups["masters"] = ledger.of(masters.weights.values()) - groups["weights"]
    return _summed(ledger, groups, rehearsal, micro_rows, _shapes(masters.weights.values()), _vocabularies(model))


def _shapes(tensors: Any) -> set[tuple[int, ...]]:
    return {tuple(tensor.shape) for tensor in tensors}


def _vocabularies(model: Any) -> set[int]:
    """Return the sizes by which logits are known: that of the head, padding included, and that without."""
    return {model.output_projection()[0].shape[0], model.vocabulary}


def _summed(
    ledger: LiveMemory,
    groups: dict[str, set[int]],
    rehearsal: Rehearsal,
    micro_rows: int,
    learned: set[tuple[int, ...]],
    vocabularies: set[int],
) -> MemoryEstimate:
    """Divide what was alive at the peak; storages are known by whom they belong to, else by their shape."""
    sums: dict[str, int] = dict.fromkeys(("weights", "masters", "gradients", "optimizer", "logits", "activations"), 0)
    for number in ledger.at_peak():
        storage = ledger.storages[number]
        kind = next((name for name, members in groups.items() if number in members), None)
        if kind is None:
            if storage.shape in learned:
                kind = "gradients"
            else:
                kind = "logits" if storage.shape and storage.shape[-1] in vocabularies else "activations"
        sums[kind] += storage.size
    factor, constant = SPARE["cuda" if rehearsal.gpu else "cpu"]
    peak = ledger.peak
    return MemoryEstimate(micro_rows, **sums, peak=peak, process=int(factor * peak) + constant)


def memory_table(rehearsal: Rehearsal, memory: float, most_rows: int = 64) -> list[MemoryEstimate]:
    """Return the estimates for micro-batches of 1, 2, 4, … rows, up to the first that does not fit into `memory`."""
    found = [estimate_memory(rehearsal, 1)]
    while found[-1].fits(memory) and 2 * found[-1].micro_rows <= most_rows:
        found.append(estimate_memory(rehearsal, 2 * found[-1].micro_rows))
    return found


def largest_that_fits(estimates: list[MemoryEstimate], memory: float) -> MemoryEstimate | None:
    """Return the estimate with most rows that fits, None if one row does not."""
    fitting = [estimate for estimate in estimates if estimate.fits(memory)]
    return fitting[-1] if fitting else None


def memory_of(device: torch.device) -> int:
    """Return the bytes that a process can have on this machine's device: all of a GPU, or what is free of the RAM.

    A limit on the process's address space (`ulimit -v`) counts too.
    """
    import psutil

    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).total_memory
    free = psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return free if limit == resource.RLIM_INFINITY else max(0, min(free, limit - psutil.Process().memory_info().vms))

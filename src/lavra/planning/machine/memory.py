"""The memory that training will take, from a dry run of a step with fake tensors, before anything is allocated."""

from __future__ import annotations

import resource
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lavra.core.progress import Waiting
from lavra.models.spec import DecoderSpec
from lavra.planning.machine.dry_run import DryRun, chunks_of_a_gpu, fake_tensors

# How much memory tensors hold at each moment: a record of all storages, for real tensors and for fake ones alike.

CUDA_BLOCK = 512
"""Bytes to a multiple of which the caching allocator of CUDA rounds up the size of each tensor."""


@dataclass
class Storage:
    """One recorded storage: the memory of a tensor and all its views.

    Attributes:
        size: Size in bytes.
        born: Number of the operation that created it.
        died: Number of the operation before which it was freed; None while it is alive.
        shape: Shape of the tensor with which it was first seen.
    """

    size: int
    born: int
    died: int | None
    shape: tuple[int, ...]


class LiveMemory(TorchDispatchMode):
    """Dispatch mode that counts the bytes of every storage from the operation that creates it until it is freed.

    A storage counts once, however many views it has. Memory that exists only inside a kernel is not seen. Inside a
    `FakeTensorMode` nothing is computed or allocated.

    Args:
        fake: Whether reading a number from a tensor, as in `float(loss)`, returns 1; tensors without values need that.
        block: Number of bytes to a multiple of which sizes are rounded up.

    Attributes:
        live: Bytes that are alive now.
        peaks: For each phase, the largest number of bytes that were alive at once, and the number of the operation at
            which that was. There is one phase unless `begin_phase` is called.
        storages: All storages in the order of their creation.
    """

    def __init__(self, *, fake: bool = False, block: int = 1) -> None:
        super().__init__()
        self.fake, self.block = fake, block
        self.live = self.operation = 0
        self.peaks = [(0, 0)]
        self.storages: list[Storage] = []
        self._numbers: dict[int, int] = {}  # of the storages alive, by their address as C++ objects

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record the storages that it created."""
        if self.fake and func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].dtype.is_floating_point else 1
        self.operation += 1
        result = func(*args, **(kwargs or {}))
        self.enter(tree_leaves(result))
        return result

    @property
    def peak(self) -> int:
        """Largest number of bytes that were alive at once so far."""
        return max(self.peaks)[0]

    def begin_phase(self) -> None:
        """Record the peak of what follows on its own."""
        self.peaks.append((self.live, self.operation))

    def enter(self, values: Iterable[Any]) -> None:
        """Record the storages of those tensors among `values` that are not known yet."""
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
        if self.live > self.peaks[-1][0]:
            self.peaks[-1] = self.live, self.operation

    def _leave(self, address: int, number: int) -> None:
        if self._numbers.get(address) != number:
            return
        del self._numbers[address]
        self.storages[number].died = self.operation + 1
        self.live -= self.storages[number].size

    def of(self, tensors: Iterable[torch.Tensor]) -> set[int]:
        """Return the indices in `storages` of the storages of `tensors`."""
        addresses = (tensor.untyped_storage()._cdata for tensor in tensors)
        return {self._numbers[address] for address in addresses if address in self._numbers}

    def at(self, operation: int) -> list[int]:
        """Return the indices in `storages` of those that were alive after an operation, given by its number."""
        return [
            number
            for number, storage in enumerate(self.storages)
            if storage.born <= operation and (storage.died is None or storage.died > operation)
        ]


# The estimate of a training step.

_STEPS = 2
"""Number of steps of the dry run: the first creates the state of the optimiser, the second has the lasting peak."""

_DEPTHS = (2, 3)
"""Numbers of blocks of the dry runs from which deeper models are extrapolated."""

_PARTS: tuple[str, ...] = ("weights", "master_weights", "gradients", "optimizer", "logits", "activations")
"""The parts of the memory of a step, which add up to its peak."""

SPARE = {"cpu": (1.3, 192 << 20), "cuda": (1.06, 768 << 20)}
"""Overhead (factor, constant in bytes) of a process: for `b` bytes of tensors it takes factor x b + constant. On a CPU:
fragmentation of the heap and buffers of libraries, from the growth of fresh processes (see the lab notebook). On CUDA:
the context, workspaces of cuBLAS, and fragmentation."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one training step at its peak, in bytes.

    Attributes:
        micro_batch_size: Number of sequences of a micro-batch.
        weights: Weights that the model computes with, including frozen ones and buffers.
        master_weights: Master weights in fp32; 0 if the model computes in fp32.
        gradients: Gradients of the trainable weights, in the precision of the model and of the master weights.
        optimizer: State of the optimiser.
        logits: Logits of a chunk, with their gradient and that of the head.
        activations: Everything else: what the backward pass needs, and temporary results.
        peak: Sum of the parts above.
        process: Memory of the whole process, with its overhead.
    """

    micro_batch_size: int
    weights: int
    master_weights: int
    gradients: int
    optimizer: int
    logits: int
    activations: int
    peak: int
    process: int

    def fits(self, memory: float) -> bool:
        """Return whether the step fits into `memory` bytes that one process can have."""
        return self.process <= memory

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return asdict(self)


def estimate_memory(dry_run: DryRun, micro_batch_size: int) -> MemoryEstimate:
    """Return the memory that a training step takes, from a dry run with fake tensors.

    The blocks of lavra's decoder are alike, so that a model of many is extrapolated from models of two and three, phase
    by phase: within each phase (building, gradients, update) the peak is a linear function of the depth.

    Args:
        dry_run: Configuration of the training step.
        micro_batch_size: Number of sequences of a micro-batch.

    Raises:
        InputError: if the model or a transform of it is wrong.
    """
    with Waiting("estimating the memory of a training step"):
        return _estimated(dry_run, micro_batch_size)


def _estimated(dry_run: DryRun, micro_batch_size: int) -> MemoryEstimate:
    model = dry_run.model
    if not isinstance(model, DecoderSpec) or model.depth <= _DEPTHS[1]:
        return max(_phases(dry_run, micro_batch_size), key=lambda found: found.peak)
    few, more = (_phases(replace(dry_run, model=replace(model, depth=depth)), micro_batch_size) for depth in _DEPTHS)
    factor = (model.depth - _DEPTHS[0]) / (_DEPTHS[1] - _DEPTHS[0])
    deep = (_extrapolated(one, other, factor, dry_run.gpu) for one, other in zip(few, more, strict=True))
    return max(deep, key=lambda found: found.peak)


def _phases(dry_run: DryRun, micro_batch_size: int) -> list[MemoryEstimate]:
    """Return the memory at the peak of each phase of a dry run with fake tensors."""
    if isinstance(dry_run.model, DecoderSpec):
        return _remembered(dry_run, micro_batch_size, _STEPS)
    return _dry_run(dry_run, micro_batch_size)  # the folder of a model may hold another one next time


@lru_cache(maxsize=256)
def _remembered(dry_run: DryRun, micro_batch_size: int, _steps: int) -> list[MemoryEstimate]:
    return _dry_run(dry_run, micro_batch_size)


def _dry_run(dry_run: DryRun, micro_batch_size: int) -> list[MemoryEstimate]:
    block = CUDA_BLOCK if dry_run.gpu else 1
    with fake_tensors(), LiveMemory(fake=True, block=block) as live_memory:
        return _phases_of_steps(dry_run, micro_batch_size, live_memory)


def _extrapolated(few: MemoryEstimate, more: MemoryEstimate, factor: float, gpu: bool) -> MemoryEstimate:
    """Return the estimate that lies `factor` times as far from the first as the second does."""
    sums = {name: round(getattr(few, name) + factor * (getattr(more, name) - getattr(few, name))) for name in _PARTS}
    return _estimate(few.micro_batch_size, sums, gpu)


def _estimate(micro_batch_size: int, sums: dict[str, int], gpu: bool) -> MemoryEstimate:
    """Return the estimate of parts in bytes, with the overhead of a process."""
    factor, constant = SPARE["cuda" if gpu else "cpu"]
    peak = sum(sums.values())
    return MemoryEstimate(micro_batch_size, **sums, peak=peak, process=int(factor * peak) + constant)


def memory_of_step(
    dry_run: DryRun, micro_batch_size: int, live_memory: LiveMemory, make: Callable[[], nn.Module] | None = None
) -> MemoryEstimate:
    """Run training steps inside a `LiveMemory`, and return the memory that they take.

    Args:
        dry_run: Configuration of the training step.
        micro_batch_size: Number of sequences of a micro-batch.
        live_memory: Dispatch mode that is active and records the storages.
        make: Function that returns a model with real values, to check the estimate; None builds the one of the dry run.
    """
    return max(_phases_of_steps(dry_run, micro_batch_size, live_memory, make), key=lambda found: found.peak)


def _phases_of_steps(
    dry_run: DryRun, micro_batch_size: int, live_memory: LiveMemory, make: Callable[[], nn.Module] | None = None
) -> list[MemoryEstimate]:
    """Return the memory at the peak of building, and of the gradient and the update of each step."""
    trainer = dry_run.trainer(micro_batch_size, make)
    update = trainer.optimizers.step

    def in_its_own_phase(factor: float) -> None:
        live_memory.begin_phase()
        update(factor)

    trainer.optimizers.step = in_its_own_phase
    with chunks_of_a_gpu(dry_run.gpu):
        for _ in range(_STEPS):
            live_memory.begin_phase()
            trainer.run_step()
    master_weights = trainer.master_weights
    model: Any = trainer.model
    groups = {
        "weights": live_memory.of([*model.parameters(), *model.buffers()]),
        "optimizer": live_memory.of(trainer.optimizers.tensors().values()),
    }
    groups["master_weights"] = live_memory.of(master_weights.weights.values()) - groups["weights"]
    shapes, vocabularies = _shapes(master_weights.weights.values()), _vocabularies(model)
    return [
        _estimate(micro_batch_size, _summed(live_memory, moment, groups, shapes, vocabularies), dry_run.gpu)
        for _, moment in live_memory.peaks
    ]


def _shapes(tensors: Any) -> set[tuple[int, ...]]:
    return {tuple(tensor.shape) for tensor in tensors}


def _vocabularies(model: Any) -> set[int]:
    """Return the last dimensions that mark a tensor as logits: the vocabulary with and without padding rows."""
    return {model.output_projection()[0].shape[0], model.vocabulary}


def _summed(
    live_memory: LiveMemory,
    moment: int,
    groups: dict[str, set[int]],
    learned: set[tuple[int, ...]],
    vocabularies: set[int],
) -> dict[str, int]:
    """Divide the memory at a moment into its parts: by owner where one is known, otherwise by shape."""
    sums: dict[str, int] = dict.fromkeys(_PARTS, 0)
    for number in live_memory.at(moment):
        storage = live_memory.storages[number]
        kind = next((name for name, members in groups.items() if number in members), None)
        if kind is None:
            if storage.shape in learned:
                kind = "gradients"
            else:
                kind = "logits" if storage.shape and storage.shape[-1] in vocabularies else "activations"
        sums[kind] += storage.size
    return sums


def memory_table(dry_run: DryRun, memory: float, most_rows: int = 64) -> list[MemoryEstimate]:
    """Return estimates for micro-batches of 1, 2, 4, … sequences, up to the first that does not fit.

    Args:
        dry_run: Configuration of the training step.
        memory: Available memory in bytes.
        most_rows: Largest number of sequences of a micro-batch that is tried.
    """
    found = [estimate_memory(dry_run, 1)]
    while found[-1].fits(memory) and 2 * found[-1].micro_batch_size <= most_rows:
        found.append(estimate_memory(dry_run, 2 * found[-1].micro_batch_size))
    return found


def largest_that_fits(estimates: list[MemoryEstimate], memory: float) -> MemoryEstimate | None:
    """Return the last of the estimates that fits into `memory` bytes, or None if none does."""
    fitting = [estimate for estimate in estimates if estimate.fits(memory)]
    return fitting[-1] if fitting else None


def memory_of(device: torch.device) -> int:
    """Return the memory in bytes that this process can have on a device.

    For a GPU this is its whole memory; otherwise it is the free main memory, or less if the address space of the
    process is limited (`ulimit -v`).

    Args:
        device: Device that trains.
    """
    import psutil

    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).total_memory
    free = psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return free if limit == resource.RLIM_INFINITY else max(0, min(free, limit - psutil.Process().memory_info().vms))

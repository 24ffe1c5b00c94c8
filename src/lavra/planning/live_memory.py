"""How much memory tensors hold at each moment: a ledger of storages, for real tensors and for fake ones alike."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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

"""A copy of the training state in the memory of the CPU, so that training can go on while the copy is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lavra.training.tensor_files import as_bytes, in_file_order

if TYPE_CHECKING:
    import torch


class SnapshotBuffer:
    """Memory that is kept from one snapshot to the next: allocating it anew costs more than filling it.

    Each group of tensors has one block of bytes, page-locked (much faster) when a tensor comes from a CUDA device.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, torch.Tensor] = {}

    def copy(self, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
        """Return copies of the tensors, which hold until the next call.

        Raises:
            TypeError: for a tensor that can't be saved.
            MemoryError, RuntimeError: if there is no memory for a copy.
        """
        import torch

        copies = {group: self._copy_group(group, tensors) for group, tensors in groups.items()}
        if any(tensor.is_cuda for tensors in groups.values() for tensor in tensors.values()):
            torch.cuda.synchronize()  # the copies above are only queued
        return copies

    def _copy_group(self, group: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        ordered = in_file_order(tensors)
        block = self._block(
            group, sum(tensor.nbytes for _, tensor in ordered), any(tensor.is_cuda for _, tensor in ordered)
        )
        copies, start = {}, 0
        for name, tensor in ordered:  # widest elements first: every view below begins aligned
            place, start = block[start : start + tensor.nbytes], start + tensor.nbytes
            copies[name] = place.view(tensor.dtype).view(tensor.shape)
            if tensor.is_cuda:
                copies[name].copy_(tensor.detach(), non_blocking=True)
            elif tensor.numel():
                # Not torch's copy: it shares out each tensor among all threads and waits for the last, which on a
                # machine that does other work as well takes twenty times as long as one thread does for all.
                place.numpy().data[:] = as_bytes(tensor)
        return copies

    def _block(self, group: str, size: int, page_locked: bool) -> torch.Tensor:
        import torch

        block = self._blocks.get(group)
        if block is None or block.numel() < size or (page_locked and not block.is_pinned()):
            self._blocks.pop(group, None)  # the old one goes before the new one comes
            block = self._blocks[group] = torch.empty(size, dtype=torch.uint8, pin_memory=page_locked)
        return block

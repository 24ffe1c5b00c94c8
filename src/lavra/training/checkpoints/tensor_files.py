"""Tensors in a safetensors file, written in one pass that also takes the checksum.

The format (https://github.com/huggingface/safetensors): eight bytes that hold the length of a JSON header, the header,
and then the bytes of each tensor. We write it ourselves because the library's `save_file` first copies each tensor into
a Python object while it holds the interpreter, which would stall the training that a background write is meant to
spare, refuses tensors that share a storage, and takes no checksum. Reading is left to the library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.training.fault_injection import fault_point

if TYPE_CHECKING:
    import torch

_CHUNK = 8 * 2**20  # bytes written, or read, at a time


@dataclass(frozen=True)
class FileRecord:
    """What a file must be: its bytes, and the xxh3 (128 bits, hexadecimal) of its content."""

    size: int
    xxh3: str


def dtype_names() -> dict[torch.dtype, str]:
    """Return the name that the format has for each dtype that can be saved."""
    import torch

    return {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint64: "U64",
        torch.uint32: "U32",
        torch.uint16: "U16",
        torch.uint8: "U8",
        torch.bool: "BOOL",
        torch.complex64: "C64",
    }


def in_file_order(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors as they follow each other in a file: the widest elements first, so that each begins aligned.

    Raises:
        TypeError: for a tensor that the format has no name for, e.g. a sparse one.
    """
    import torch

    names = dtype_names()
    for name, tensor in tensors.items():
        if tensor.dtype not in names or tensor.layout != torch.strided or tensor.device.type == "meta":
            raise TypeError(f"tensor {name!r} ({tensor.dtype}, {tensor.layout}, {tensor.device}) can't be saved")
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> FileRecord:
    """Write the tensors as they are now, synced to the disk, and return the record of the file.

    Tensors may live on any device, have any strides and share storages; each is written whole. One tensor at a time is
    copied where that is needed, so that the extra memory is that of the largest.

    Raises:
        TypeError: for a tensor that the format has no name for.
        OSError: as the disk gives it.
    """
    import xxhash

    checksum, size = xxhash.xxh3_128(), 0
    ordered = in_file_order(tensors)
    halfway = sum(tensor.nbytes for _, tensor in ordered) // 2
    with path.open("xb", buffering=0) as handle:
        for piece in _pieces(ordered):
            checksum.update(piece)
            written = 0
            while written < len(piece):  # a raw write may take less than it is given
                written += handle.write(piece[written:]) or 0
            if size <= halfway < size + len(piece):
                fault_point("checkpoint.half_file")
            size += len(piece)
        os.fsync(handle.fileno())
    return FileRecord(size, checksum.hexdigest())


def checksum_file(path: Path, *, from_disk: bool = False) -> FileRecord:
    """Return the record of a file as it is.

    Args:
        path: the file.
        from_disk: ask the system to forget its copy in memory first, so that what is read is what the disk holds (where
            the system knows how: Linux; the file must be synced).

    Raises:
        OSError: if it can't be read.
    """
    import xxhash

    checksum, size, chunk = xxhash.xxh3_128(), 0, memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as handle:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while count := handle.readinto(chunk):
            checksum.update(chunk[:count])
            size += count
    return FileRecord(size, checksum.hexdigest())


def _pieces(ordered: list[tuple[str, torch.Tensor]]) -> Iterator[memoryview]:
    """Yield the bytes of the file: the header, and the tensors in pieces of at most `_CHUNK` bytes."""
    yield memoryview(_header(ordered))
    for _, tensor in ordered:
        content = as_bytes(tensor)
        for start in range(0, len(content), _CHUNK):
            yield content[start : start + _CHUNK]


def _header(ordered: list[tuple[str, torch.Tensor]]) -> bytes:
    names, start = dtype_names(), 0
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, tensor in ordered:
        end = start + tensor.nbytes
        entries[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor in row-major order; no copy when it lies on the CPU and is contiguous."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.is_conj() or flat.is_neg():
        flat = flat.resolve_conj().resolve_neg()
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


# A copy of the training state in the memory of the CPU, so that training can go on while the copy is written.


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

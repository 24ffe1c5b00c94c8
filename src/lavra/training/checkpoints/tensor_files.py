"""Files in the safetensors format, written in one pass that also computes the checksum.

The format (https://github.com/huggingface/safetensors) consists of the length of a JSON header in eight bytes, the
header, and then the bytes of each tensor. Lavra writes it without the library, because `save_file` copies each tensor
into a Python object while it holds the interpreter lock, which would stall the training during a background write; it
also refuses tensors that share storage, and computes no checksum. The library reads the files.
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

_CHUNK = 8 * 2**20
"""Bytes that are written or read at a time."""


@dataclass(frozen=True)
class FileRecord:
    """Size and checksum that a file must have.

    Attributes:
        size: Size in bytes.
        xxh3: XXH3 checksum of the content: 128 bits, hexadecimal.
    """

    size: int
    xxh3: str


def dtype_names() -> dict[torch.dtype, str]:
    """Return the name in the safetensors format of each dtype that can be saved."""
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
    """Return (name, tensor) in the order of the file: the widest elements first, so that every tensor starts aligned.

    Raises:
        TypeError: if the format cannot express a tensor, such as a sparse one.
    """
    import torch

    names = dtype_names()
    for name, tensor in tensors.items():
        if tensor.dtype not in names or tensor.layout != torch.strided or tensor.device.type == "meta":
            raise TypeError(f"tensor {name!r} ({tensor.dtype}, {tensor.layout}, {tensor.device}) cannot be saved")
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> FileRecord:
    """Write tensors to a new file, sync it to the disk, and return its size and checksum.

    Args:
        path: File, which must not exist.
        tensors: Tensors by name. They may be on any device, have any strides and share storage; each is written
            completely. Tensors that need it are copied one at a time, so the additional memory is that of the largest.

    Raises:
        TypeError: if the format cannot express a tensor.
        OSError: if the file exists or cannot be written.
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
    """Return the size and the checksum of a file.

    Args:
        path: File.
        from_disk: Whether to ask the system to drop its cached copy first, so that the content of the disk itself is
            read. This works on Linux for files that are synced, and is ignored elsewhere.

    Raises:
        OSError: if the file cannot be read.
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
    """Yield the bytes of the file: the header, then the tensors in chunks of at most `_CHUNK` bytes."""
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
    """Return the bytes of a tensor in row-major order, without a copy if it is on the CPU and contiguous."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.is_conj() or flat.is_neg():
        flat = flat.resolve_conj().resolve_neg()
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


# A copy of the training state in CPU memory, so that training can continue while the copy is written.


class SnapshotBuffer:
    """Reusable memory for snapshots of the training state: allocating it each time would cost more than filling it.

    Each group of tensors has one block of bytes. It is page-locked (pinned), which makes copies much faster, when one
    of the tensors is on a CUDA device.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, torch.Tensor] = {}

    def copy(self, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
        """Return copies of the tensors, which stay valid until the next call.

        Args:
            groups: Tensors by name, by name of the group.

        Raises:
            TypeError: if a tensor cannot be saved.
            MemoryError: if there is not enough memory for a copy.
            RuntimeError: if torch reports that there is not enough memory.
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
                # A plain memory copy instead of `Tensor.copy_`, which divides each tensor among all threads and waits
                # for the slowest: on a machine with other work that takes twenty times as long as one thread does.
                place.numpy().data[:] = as_bytes(tensor)
        return copies

    def _block(self, group: str, size: int, page_locked: bool) -> torch.Tensor:
        import torch

        block = self._blocks.get(group)
        if block is None or block.numel() < size or (page_locked and not block.is_pinned()):
            self._blocks.pop(group, None)  # the old one goes before the new one comes
            block = self._blocks[group] = torch.empty(size, dtype=torch.uint8, pin_memory=page_locked)
        return block

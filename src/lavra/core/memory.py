"""Telling an exhausted memory from every other failure."""

from __future__ import annotations

_SIGNS = ("out of memory", "can't allocate memory", "alloc_failed", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that a device or the machine has no memory left.

    Torch raises `OutOfMemoryError` for CUDA only; the CPU's, Metal's and cuBLAS's allocators raise a plain
    `RuntimeError` that is told by its words.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)

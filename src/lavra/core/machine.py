"""The memory and the processors of this process: running out of memory, keeping freed memory, the cores it may use."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
import traceback
from pathlib import Path

# What the allocators of torch say when they raise a plain RuntimeError: CUDA, ROCm, Apple, cuBLAS, cuDNN and the CPU's.
_SAYINGS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, or the error that it was raised from, says that memory ran out.

    Covers `torch.OutOfMemoryError` (a RuntimeError of accelerators), the RuntimeErrors of older CUDA calls, cuBLAS and
    the CPU allocator, and Python's own MemoryError. A full disk is no such error.

    Examples:
        >>> from lavra.core.machine import is_out_of_memory
        >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
        True
        >>> is_out_of_memory(OSError("No space left on device"))
        False
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(saying in str(seen).lower() for saying in _SAYINGS):
            return True
        seen = seen.__cause__
    return False


def release_memory(error: BaseException | None = None) -> None:
    """Release the memory that a failed attempt still holds, so that a smaller one can be tried.

    The traceback of an error keeps every local variable of the attempt alive, activations included, so its frames are
    cleared first. Then reference cycles are collected, and the cached blocks of the accelerators are released.

    Args:
        error: The error by which the attempt failed, with the errors that it was raised from; None clears no traceback.
    """
    import torch

    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


# Keeping memory that was freed: what one step lets go, the next one needs again.

_TRIM_THRESHOLD = -1  # of glibc's malloc.h
_MMAP_MAX = -4
_ARENA_MAX = -8
_MOST = 2**31 - 1  # bytes; mallopt takes a C int, and this one means "never give memory back"

_kept = False


def keep_freed_memory() -> bool:
    """Let the C library keep large blocks that are freed, instead of handing them back to the system.

    A step frees and allocates the same tensors of some MiB again and again. By default glibc maps each from the system
    and unmaps it, and every page of it is zeroed and faulted in anew: six to nine parts in a hundred of a step. Threads
    that begin later share one arena, so that what one frees serves the others; called before NumPy and torch start
    theirs, it serves all of them.

    Returns:
        Whether the C library is glibc and accepted the settings. Elsewhere nothing is changed.
    """
    global _kept
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    _kept = all(mallopt(*choice) for choice in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST), (_ARENA_MAX, 1)))
    return _kept


def give_back_freed_memory() -> None:
    """Hand the kept memory back to the system once, after work that needed blocks of other sizes than what follows."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def keeps_freed_memory() -> bool:
    """Return whether this process keeps the memory that it frees, because `keep_freed_memory` succeeded."""
    return _kept


# The processor: its name, and the cores that this process may use.


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than the machine has where a container or taskset limits it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return the name of the processor as the system gives it, or the name of the system where it gives none."""
    return _from_cpuinfo("model name") or platform.processor() or sys.platform


def processor_flags() -> str:
    """Return the instruction sets of the processor as Linux lists them ("fpu … avx2 …"); an empty string elsewhere."""
    return _from_cpuinfo("flags")


def _from_cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")

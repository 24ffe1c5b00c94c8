"""Running out of memory: telling it from other failures, and letting go of what the failed attempt held."""

from __future__ import annotations

import gc
import traceback

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
    the CPU allocator, and Python's own MemoryError. A disk that is full is no such error.
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
    """Let go of what a failed attempt still holds, so that a smaller one can be tried.

    The traceback of `error` keeps every local variable of the attempt alive, activations included: its frames are
    cleared first. Then come reference cycles and the cached blocks of the accelerators.
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

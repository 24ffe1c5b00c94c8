"""Running out of memory: recognising it, letting go of what was held, and the next smaller micro-batch to try."""

from __future__ import annotations

import gc
import traceback

from lavra.core.errors import InputError

# What the allocators of torch say when they raise a plain RuntimeError: CUDA, ROCm, Apple, cuBLAS, and the CPU's.
_SAYINGS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, or the error that it was raised from, says that memory ran out.

    Covers `torch.OutOfMemoryError` (accelerators), the RuntimeErrors of older CUDA calls, cuBLAS and the CPU allocator,
    and Python's own MemoryError. A disk that is full is no such error.
    """
    import torch

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(saying in str(seen).lower() for saying in _SAYINGS):
            return True
        seen = seen.__cause__
    return False


def release_memory(error: BaseException | None = None) -> None:
    """Let go of what a failed step still holds, so that a smaller one can be tried.

    The traceback of `error` keeps every local variable of the failed step alive, activations included: its frames are
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


def halve(micro_rows: int, rows_per_step: int) -> int:
    """Return the micro-batch to try next: the largest divisor of `rows_per_step` that is at most half of `micro_rows`.

    A divisor, so that a step keeps its rows and is still cut into equal micro-batches.

    Args:
        micro_rows: rows per micro-batch that did not fit.
        rows_per_step: rows per optimiser step (on this rank), which stays as it is.

    Raises:
        InputError: if one row was already too much.
    """
    if micro_rows <= 1:
        raise InputError(
            "out of memory with a micro-batch of a single row",
            "shorten the context, choose a smaller model (--model), or end other programs that use this memory",
        )
    return next(rows for rows in range(micro_rows // 2, 0, -1) if rows_per_step % rows == 0)

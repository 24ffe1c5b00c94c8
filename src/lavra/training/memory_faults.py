"""The next smaller micro-batch to try when memory runs out."""

from __future__ import annotations

from lavra.core.errors import InputError


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

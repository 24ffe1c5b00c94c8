"""Keeping memory that was freed: what one step lets go, the next one needs again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_MOST = 2**31 - 1

_kept = False


def keep_freed_memory() -> bool:
    """Let the C library keep large blocks that are freed, instead of handing them back to the system.

    A step frees and allocates the same tensors of some MiB again and again. By default glibc maps each from the system
    and unmaps it, and every page of it is zeroed and faulted in anew: six to nine parts in a hundred of a step. Threads
    that begin later share one arena, so that what one frees serves the others; called before NumPy and torch start
    theirs, it serves all of them.

    Returns:
        Whether the C library is glibc and took it. Elsewhere nothing is changed.
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
    """Hand back what is kept, once, after a part of the work that needed other blocks than what follows."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def keeps_freed_memory() -> bool:
    """Whether this process keeps the memory that it frees."""
    return _kept

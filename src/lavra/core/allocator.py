"""Keeping memory that was freed: what one step lets go, the next one needs again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep large blocks that are freed, instead of handing them back to the system.

    A step frees and allocates the same tensors of some MiB again and again. By default glibc maps each from the system
    and unmaps it, and every page of it is zeroed and faulted in anew: six to nine parts in a hundred of a step.

    Returns:
        Whether the C library is glibc and took it. Elsewhere nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))

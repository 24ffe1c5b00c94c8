"""Sorting many ids by their bytes without an object for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavra.search.term_counts import Whole

_BLOCK = 8
"""Bytes that are compared at once, as one number."""


def ascending(texts: NDArray[np.uint8], starts: Whole) -> Whole:
    """Return the numbers of texts in the order of their bytes, a beginning of another text before it.

    A radix sort from the last block of bytes to the first; a text takes part from its own last block on. It takes some
    tens of bytes of memory for each text, and time in proportion to the length of all.

    Args:
        texts: the bytes of all texts, one after the other.
        starts: (texts + 1,) where each begins.
    """
    lengths = np.diff(starts)
    by_length = np.argsort(lengths, kind="stable")
    ordered = lengths[by_length]
    order = by_length[:0]
    last = len(by_length)
    for begin in range((int(ordered[-1]) - 1) // _BLOCK * _BLOCK if len(ordered) else -1, -1, -_BLOCK):
        first = int(ordered.searchsorted(begin, side="right"))
        order = np.concatenate([by_length[first:last], order])
        order = order[np.argsort(_block(texts, starts, order, begin), kind="stable")]
        last = first
    return np.concatenate([by_length[:last], order])


def _block(texts: NDArray[np.uint8], starts: Whole, chosen: Whole, begin: int) -> NDArray[np.uint64]:
    """Return eight bytes of each chosen text from `begin` on as a number, zeros where it has ended."""
    places = starts[chosen] + begin
    ends = starts[chosen + 1]
    found = np.zeros(len(chosen), dtype=np.uint64)
    for _ in range(_BLOCK):
        inside = places < ends
        found <<= np.uint64(8)
        found[inside] |= texts[places[inside]]
        places += 1
    return found

"""Packing: which examples share a row, so that rows fill up and every example lies in exactly one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from lavra.core.seeds import numpy_stream

LOOK_AHEAD = 4096
"""Examples, in shuffled order, among which the companions of a row are looked for."""

_TRIES = 32
"""Candidates tried, from the largest that fits one side, until one fits the other side too."""


def pack_examples(
    sides: Sequence[tuple[np.ndarray, int]], seed: int, *, alone: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Divide examples into rows.

    The examples are shuffled, and taken `LOOK_AHEAD` at a time: a row begins with the largest one left, to which the
    largest that still fits is added again and again (best fit decreasing, Johnson 1973).

    Args:
        sides: for each side of the model (decoder, and encoder if there is one) the (examples,) lengths and the limit
            of a row; no length may exceed it.
        seed: of the shuffling.
        alone: one example per row.

    Returns:
        (examples,) int64 numbers of the examples, row after row, and (rows + 1,) int64 places where the rows begin.
    """
    count = len(sides[0][0])
    shuffled = numpy_stream(seed, "packing").permutation(count)
    if alone or not count:
        return shuffled, np.arange(count + 1)
    # Rows are filled along the side on which they are fullest.
    first, *others = sorted(sides, key=lambda side: side[0].sum() / side[1], reverse=True)
    members: list[int] = []
    starts = [0]
    for begin in range(0, count, LOOK_AHEAD):
        _pack(shuffled[begin : begin + LOOK_AHEAD], first, others[0] if others else None, members, starts)
    return np.array(members, np.int64), np.array(starts, np.int64)


def _pack(
    numbers: np.ndarray,
    first: tuple[np.ndarray, int],
    second: tuple[np.ndarray, int] | None,
    members: list[int],
    starts: list[int],
) -> None:
    """Append the rows of some examples to `members` and `starts`."""
    ascending = numbers[np.argsort(first[0][numbers], kind="stable")]
    left = ascending.tolist()
    sizes = first[0][ascending].tolist()
    others = second[0][ascending].tolist() if second else [0] * len(left)
    limits = first[1], second[1] if second else 0
    while left:
        room, other_room = limits[0] - sizes.pop(), limits[1] - others.pop()
        members.append(left.pop())
        while (place := bisect_right(sizes, room) - 1) >= 0:
            lowest = max(0, place - _TRIES)
            while place >= lowest and others[place] > other_room:
                place -= 1
            if place < lowest:
                break
            room -= sizes.pop(place)
            other_room -= others.pop(place)
            members.append(left.pop(place))
        starts.append(len(members))

"""Packs examples into rows, so that rows are nearly full and every example lies in exactly one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from lavra.core.seeds import numpy_stream

LOOK_AHEAD = 4096
"""Number of examples, in shuffled order, among which those that share a row are chosen."""

# Number of candidates that are tried, from the largest that fits one side, until one fits the other side too.
_TRIES = 32


def pack_examples(
    sides: Sequence[tuple[np.ndarray, int]], seed: int, *, alone: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Divide examples into rows.

    The examples are shuffled, and taken `LOOK_AHEAD` at a time: a row begins with the largest one left, to which the
    largest that still fits is added again and again (best fit decreasing, Johnson 1973).

    Args:
        sides: For each side of the model (decoder, and encoder if there is one) the (examples,) lengths of the examples
            and the limit of a row in tokens; no length may exceed it.
        seed: Seed of the shuffling.
        alone: Put each example into a row of its own; false by default.

    Returns:
        The (examples,) int64 numbers of the examples, row after row, and the (rows + 1,) int64 indices at which the
        rows begin in them.

    Examples:
        >>> import numpy as np
        >>> from lavra.data.examples.packing import pack_examples
        >>> lengths = np.array([5, 3, 7, 2, 3])
        >>> members, starts = pack_examples([(lengths, 10)], seed=0)
        >>> [int(lengths[members[start:end]].sum()) for start, end in zip(starts, starts[1:])]
        [10, 10]
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
    """Pack some examples by best fit decreasing, and append their rows to `members` and `starts`.

    The lengths are kept sorted, so that a binary search finds the largest example that still fits.
    """
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

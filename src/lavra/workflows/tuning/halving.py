"""Successive halving (Jamieson and Talwalkar 2016): all points get a part of a run, and the best third of them goes on.

A run is planned for its whole length from the start and pauses with a checkpoint, so that a survivor is to the bit the
run that was never stopped. Three is the factor between the lengths of the rungs, and between the numbers of points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FACTOR = 3
"""Points of a rung for each point that goes on, and length of a rung relative to the one before it."""

_MOST = 4
"""Most rungs: less than a twenty-seventh of a run says too little of its end."""


def rungs_of(points: int) -> tuple[float, ...]:
    """Return the rungs of a sweep as shares of a run, of which the last is 1.

    Args:
        points: Number of points.

    Examples:
        >>> [round(share, 3) for share in rungs_of(9)]
        [0.111, 0.333, 1.0]
    """
    count = 1
    while points >= FACTOR**count and count < _MOST:
        count += 1
    count = max(count, 2) if points > 1 else 1
    return tuple(float(FACTOR) ** (number - count + 1) for number in range(count))


def survivors(points: int, rung: int) -> int:
    """Return how many points are trained to a rung.

    Args:
        points: Number of points of the sweep.
        rung: Number of the rung, from 0.

    Examples:
        >>> [survivors(9, rung) for rung in range(3)]
        [9, 3, 1]
    """
    return max(1, points // FACTOR**rung)


def rung_step(share: float, steps: int) -> int:
    """Return the step at which a run pauses.

    Args:
        share: Share of the run.
        steps: Number of steps of the run.
    """
    return max(1, min(steps, math.ceil(share * steps - 1e-9)))


def cost(points: int, rungs: Sequence[float]) -> float:
    """Return how much a sweep trains, in whole runs.

    Args:
        points: Number of points.
        rungs: The rungs, as shares of a run.

    Examples:
        >>> round(cost(9, rungs_of(9)), 3), cost(8, [1.0])
        (2.333, 8.0)
    """
    before, total = 0.0, 0.0
    for rung, share in enumerate(rungs):
        total += survivors(points, rung) * (share - before)
        before = share
    return total


def starts(points: int, rungs: Sequence[float]) -> int:
    """Return how often a sweep starts or resumes a run."""
    return sum(survivors(points, rung) for rung in range(len(rungs)))

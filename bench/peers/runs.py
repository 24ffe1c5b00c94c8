"""The record of runs, and what is read off it: medians, and the time at which a curve reaches a value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

EARLIEST = 0.9
"""Shares of a budget between which a run must end to count as one of that budget."""
LATEST = 1.03

Point = tuple[float, float]
"""Seconds, and bits per byte after them."""


def same(record: dict[str, Any], key: dict[str, Any]) -> bool:
    """Say whether a record has these settings; JSON has made lists of its tuples."""
    return all(record.get("settings", {}).get(name) == value for name, value in key.items())


def found(records: Iterable[dict[str, Any]], kind: str, key: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a kind whose settings hold those of `key`, oldest first."""
    return [record for record in records if record.get("kind") == kind and same(record, key)]


def punctual(record: dict[str, Any]) -> bool:
    """Say whether a run's model existed when its budget ended, give or take; on a busy machine plans go wrong."""
    budget = record["settings"]["budget"]
    return EARLIEST * budget <= record["seconds"] <= LATEST * budget


def time_to(points: Sequence[Point], target: float) -> tuple[float, str]:
    """Return when a curve reaches `target`, straight in the logarithm of the time between its points.

    Args:
        points: (seconds, bits per byte) of whole runs, in any order.
        target: bits per byte.

    Returns:
        The seconds, and a sign: "" between two points, "<" when the first is as good already (its seconds), ">" when
        none is (the last one's seconds).
    """
    points = sorted(points)
    if not points:
        raise ValueError("a curve needs a point")
    if points[0][1] <= target:
        return points[0][0], "" if points[0][1] == target else "<"
    for (before, worse), (after, better) in pairwise(points):
        if better <= target:
            share = (worse - target) / (worse - better)
            return math.exp(math.log(before) + share * (math.log(after) - math.log(before))), ""
    return points[-1][0], ">"

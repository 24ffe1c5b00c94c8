"""The moment by which the last step of a run should be done, for decisions that depend on the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """The moment by which something should be done.

    Attributes:
        end: That moment in seconds of the clock.
        clock: Function that returns the time in seconds.

    Examples:
        >>> Deadline(12.0, lambda: 10.0).seconds_left
        2.0
    """

    end: float
    clock: Callable[[], float] = time.monotonic

    @property
    def seconds_left(self) -> float:
        """Seconds until that moment; negative after it."""
        return self.end - self.clock()


def amount_in_time(
    wanted: int, deadline: Deadline | None, do: Callable[[int], object], *, trial: int, least: int
) -> int:
    """Return how much of some work fits into the time that is left, by the measured speed of a small part of it.

    Args:
        wanted: The amount of work where there is time for all of it, such as tokens to evaluate.
        deadline: When the work should be done; None for no limit.
        do: The function that does an amount of the work. It is called twice, and the first call does not count: it
            also loads code and fills caches.
        trial: The amount that is tried. Nothing is tried where this is half of the work or more.
        least: The smallest amount to return, however slow the machine is.
    """
    if deadline is None or 2 * trial >= wanted:
        return wanted
    do(trial)
    begun = deadline.clock()
    do(trial)
    seconds = (deadline.clock() - begun) / trial
    return min(wanted, max(least, int(max(0.0, deadline.seconds_left) / max(seconds, 1e-9))))

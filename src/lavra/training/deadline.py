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

"""A clock for tests of what is planned by time: it runs by the work that is done, not by the machine."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lavra.training.trainer import Trainer
from lavra.workflows.datasets import preparation

PEAK = 1e11
"""FLOP/s that the simulated machine multiplies matrices with."""


class SimulatedClock:
    """Seconds that pass with training steps alone, and a twentieth of one at each reading, so that every wait ends.

    Args:
        step_seconds: Seconds that each training step takes.
    """

    def __init__(self, step_seconds: float) -> None:
        self.now, self.step_seconds = time.monotonic(), step_seconds

    def __call__(self) -> float:
        self.now += 0.05
        return self.now

    def install(self, monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
        """Replace the clocks of this process until the test ends."""
        run_step = Trainer.run_step

        def timed(trainer: Trainer, *args: Any, **options: Any) -> Any:
            self.now += self.step_seconds
            return run_step(trainer, *args, **options)

        monkeypatch.setattr(Trainer, "run_step", timed)
        monkeypatch.setattr(time, "monotonic", self)
        monkeypatch.setattr(time, "perf_counter", self)
        # These clocks tell nothing of how fast matrices are multiplied.
        monkeypatch.setattr(preparation, "measure_matrix_peak", lambda device, precision: PEAK)
        return self

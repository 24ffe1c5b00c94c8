"""Learning-rate schedules, as pure functions of the step and the length of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lavra.config.choices import Shape


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule: the factor on the peak learning rate at every step.

    Attributes:
        shape: What follows the warm-up. `constant` stays at 1; `cosine` and `linear` decay to `min_lr_ratio` until the
            last step; `wsd` (warm-up, stable, decay: arXiv 2405.18392) stays at 1 and decays linearly to `min_lr_ratio`
            over the last `decay_fraction` share of the steps.
        warmup_steps: Number of steps of the linear warm-up at the start; 0 for none.
        decay_fraction: Share of the steps, from 0 to 1, over which `wsd` decays. Other shapes ignore it.
        min_lr_ratio: Factor at the end of the run, as a share of the peak learning rate.

    Examples:
        >>> schedule = Schedule(shape="wsd", warmup_steps=2, decay_fraction=0.5, min_lr_ratio=0.1)
        >>> [round(schedule.factor(step, 10), 2) for step in (0, 1, 5, 9)]
        [0.5, 1.0, 1.0, 0.28]
    """

    shape: Shape = "wsd"
    warmup_steps: int = 10
    decay_fraction: float = 0.5
    min_lr_ratio: float = 0.05

    def factor(self, step: int, steps: int) -> float:
        """Return the factor on the peak learning rate.

        Args:
            step: Step that is about to be taken, counted from 0.
            steps: Number of steps of the whole run.
        """
        grown = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return grown * self._decay(step, steps)

    def decay_begins(self, steps: int) -> float:
        """Return the step at which the decay starts, as a float; before it, the factor does not depend on `steps`.

        Args:
            steps: Number of steps of the whole run. A constant schedule never decays and returns this number.
        """
        if self.shape == "constant":
            return float(steps)
        if self.shape == "wsd":
            return steps * (1.0 - self.decay_fraction)
        return float(min(self.warmup_steps, steps - 1))

    def _decay(self, step: int, steps: int) -> float:
        if self.shape == "constant":
            return 1.0
        begin = self.decay_begins(steps)
        done = min(1.0, max(0.0, (step - begin) / max(1e-9, steps - begin)))
        if self.shape == "cosine":
            return self.min_lr_ratio + (1.0 - self.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))
        return 1.0 - (1.0 - self.min_lr_ratio) * done

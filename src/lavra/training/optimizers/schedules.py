"""Learning-rate schedules as pure functions of the share of the run that is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lavra.config.choices import Shape


@dataclass(frozen=True)
class Schedule:
    """The factor on every learning rate.

    Attributes:
        shape: `constant`; `cosine` and `linear` fall from the warm-up's end to `floor`; `wsd` stays at 1 and falls
            linearly over the last `cooldown` share (warm-up, stable, decay: arXiv 2405.18392).
        warmup_steps: steps of linear growth at the beginning.
        cooldown: share of the steps that the fall of `wsd` takes.
        floor: the factor at the end.
    """

    shape: Shape = "wsd"
    warmup_steps: int = 10
    cooldown: float = 0.5
    floor: float = 0.05

    def factor(self, step: int, steps: int) -> float:
        """Return the factor at `step` (counted from 0) of `steps`."""
        grown = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return grown * self._fall(step, steps)

    def fall_begins(self, steps: int) -> float:
        """Return the step from which on the factor falls; before it, it does not depend on `steps`."""
        if self.shape == "constant":
            return float(steps)
        if self.shape == "wsd":
            return steps * (1.0 - self.cooldown)
        return float(min(self.warmup_steps, steps - 1))

    def _fall(self, step: int, steps: int) -> float:
        if self.shape == "constant":
            return 1.0
        begin = self.fall_begins(steps)
        done = min(1.0, max(0.0, (step - begin) / max(1e-9, steps - begin)))
        if self.shape == "cosine":
            return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * done))
        return 1.0 - (1.0 - self.floor) * done

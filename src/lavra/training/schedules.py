"""Learning-rate schedules as pure functions of the share of the run that is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lavra.training.choices import Shape


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

    def _fall(self, step: int, steps: int) -> float:
        if self.shape == "constant":
            return 1.0
        if self.shape == "wsd":
            begin = steps * (1.0 - self.cooldown)
        else:
            begin = float(min(self.warmup_steps, steps - 1))
        done = min(1.0, max(0.0, (step - begin) / max(1e-9, steps - begin)))
        if self.shape == "cosine":
            return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * done))
        return 1.0 - (1.0 - self.floor) * done

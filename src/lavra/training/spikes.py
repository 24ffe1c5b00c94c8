"""Loss spikes: a step whose loss or gradient norm lies far above what the steps before it had.

The measure is the robust z-score (Iglewicz and Hoaglin, 1993): the distance from the median of a trailing window, in
units of 1.4826 times the median absolute deviation, which for normal noise is the standard deviation. Median and
deviation hardly move when a few spikes lie in the window, so a spike does not hide the next one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
# Less noise than this (nats; for the gradient norm a share of it) is not believed, lest a flat curve alarm at a wiggle.
_SMALLEST_NOISE = 0.002


@dataclass(frozen=True)
class Spike:
    """What was out of the ordinary in one step.

    `signal` is "loss" (nats) or "gradient_norm"; `value` is the step's, `usual` the median of the window before it, and
    `z` the robust z-score (infinite for a value that is not finite; on the logarithm for the gradient norm).
    """

    signal: str
    value: float
    usual: float
    z: float

    def __str__(self) -> str:
        name = self.signal.replace("_", " ")
        return f"{name} {self.value:.4g}, where {self.usual:.4g} is usual (robust z-score {self.z:.1f})"


class SpikeDetector:
    """Compares each step with the trailing window of steps before it; a pure function of the values shown to it.

    The gradient norm is compared by its logarithm, because it varies by factors. Only values above the usual alarm.

    Args:
        window: steps that are looked back on; few, because the fall of the loss within the window counts as noise.
        threshold: the z-score from which a step is a spike. Normal noise does not pass 8, heavy-tailed noise hardly.
        warmup: steps to see before any can be a spike.
    """

    def __init__(self, window: int = 64, threshold: float = 8.0, warmup: int = 32) -> None:
        if not 2 <= warmup <= window or threshold <= 0:
            raise ValueError("a spike detector needs 2 <= warmup <= window and a threshold above 0")
        self.threshold, self.warmup = threshold, warmup
        self._losses: deque[float] = deque(maxlen=window)
        self._log_norms: deque[float] = deque(maxlen=window)

    def observe(self, loss: float, gradient_norm: float) -> Spike | None:
        """Return the spike of this step, if it is one, and remember its values.

        Args:
            loss: the step's mean loss, in nats.
            gradient_norm: the norm of its gradient before clipping, 0 or more.
        """
        log_norm = math.log(max(gradient_norm, 1e-30)) if gradient_norm < math.inf else math.inf
        z_loss, usual_loss = self._judge(self._losses, loss)
        z_norm, usual_log_norm = self._judge(self._log_norms, log_norm)
        if max(z_loss, z_norm) < self.threshold:
            return None
        if z_loss >= z_norm:
            return Spike("loss", loss, usual_loss, z_loss)
        return Spike("gradient_norm", gradient_norm, math.exp(usual_log_norm), z_norm)

    def _judge(self, history: deque[float], value: float) -> tuple[float, float]:
        """Return the z-score of `value` and the median before it; then remember the value, if it is finite."""
        usual = _median(history) if history else value
        if not math.isfinite(value):
            return math.inf, usual
        z = 0.0
        if len(history) >= self.warmup:
            deviation = _median([abs(other - usual) for other in history])
            z = (value - usual) / max(_NORMAL * deviation, _SMALLEST_NOISE)
        history.append(value)
        return z, usual

    def state_dict(self) -> dict[str, Any]:
        """Return the window as plain numbers, for a checkpoint's JSON."""
        return {"losses": list(self._losses), "log_norms": list(self._log_norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the window of `state_dict`; of a longer one, with its most recent values."""
        for history, name in ((self._losses, "losses"), (self._log_norms, "log_norms")):
            history.clear()
            history.extend(state[name])


def _median(values: deque[float] | list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

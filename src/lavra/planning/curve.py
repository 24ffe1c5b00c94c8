"""The forecast of a run from its own curve, while it runs: the law says how it goes on, the curve where it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lavra.planning.law import Interval, Law
from lavra.training.schedules import Schedule

EARLIEST = 0.2
"""Share of the run before which its curve says less than the law alone."""

_SHORT, _LONG = 0.03, -0.04
"""Bounds of the drift, as a logarithm: short runs end above where their middle points to, long ones below."""

_DRIFT = 0.024, 0.0175, 60.0
"""Drift from the beginning of the cooldown to the end of wsd runs: first - second x ln(steps / third), fitted to the
curves of some sixty runs of 140 to 6,000 steps (see the lab notebook). What comes before adds nothing to it."""

_SPREAD = 0.02, 0.02
"""Standard deviation of the error at the beginning of the cooldown, and what is added to it per share of the run before
it; it shrinks in proportion to what is left of the cooldown."""

_LEAST_SPREAD = 0.002


@dataclass(frozen=True)
class CurvePoint:
    """One validation of the run.

    Attributes:
        step: steps done.
        text_bytes: effective bytes learned from.
        bits_per_byte: on the held-out windows of the run.
    """

    step: int
    text_bytes: float
    bits_per_byte: float


def forecast_from_curve(
    points: Sequence[CurvePoint],
    *,
    law: Law,
    parameters: float,
    steps: int,
    text_bytes: float,
    schedule: Schedule,
    start: float = math.inf,
) -> Interval | None:
    """Return the bits per byte that the last validation will show, with the interval of nine in ten.

    Args:
        points: the validations so far, in order.
        law: any law of the right form; a constant factor of its own does not matter.
        parameters: of the model, in matrix products.
        steps: of the whole run.
        text_bytes: effective bytes that the whole run learns from.
        schedule: of the learning rate.
        start: bits per byte before the first step, of a run that began from counts of pairs of tokens.

    Returns:
        None before `EARLIEST`, where only the law knows.
    """
    if not points or points[-1].step < EARLIEST * steps:
        return None
    last = points[-1]
    if last.step >= steps:
        return Interval(last.bits_per_byte, last.bits_per_byte, last.bits_per_byte)
    left = _left(last.step / steps, schedule)
    first, second, third = _DRIFT
    drift = min(_SHORT, max(_LONG, first - second * math.log(steps / third)))
    ahead = math.log(law.loss(parameters, text_bytes, start) / law.loss(parameters, last.text_bytes, start))
    value = last.bits_per_byte * math.exp(ahead + drift * min(1.0, left))
    deviation = max(_LEAST_SPREAD, _SPREAD[0] * min(1.0, left) + _SPREAD[1] * max(0.0, left - 1.0))
    return Interval(value, value * math.exp(-1.645 * deviation), value * math.exp(1.645 * deviation))


def _left(done: float, schedule: Schedule) -> float:
    """Return how much of the fall of the learning rate is to come: 1 at its beginning, more before, 0 at the end."""
    begin = 1.0 - schedule.cooldown if schedule.shape == "wsd" else 0.0
    if done <= begin:
        return 1.0 + (begin - done) / max(begin, 1e-9)
    return (1.0 - done) / max(1e-9, 1.0 - begin)

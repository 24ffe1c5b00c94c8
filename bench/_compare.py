"""One side measured in turns with each of its peers, and what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _results import Spread, ratios
from _turns import Worker, WorkerFailed


@dataclass
class Measured:
    """What was measured of one side.

    Attributes:
        side: its name.
        speeds: tokens per second of every turn.
        beside: our side's tokens per second in the turn before each of them; empty for our side itself.
        first_step_seconds: compilation included.
        memory: what the worker said at its end.
    """

    side: str
    speeds: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    first_step_seconds: float = 0.0
    memory: dict[str, int | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the figures; `ours_is_faster_by` is None for our side itself."""
        return {
            "side": self.side,
            "tokens_per_second": Spread.of(self.speeds).to_json(),
            "ours_is_faster_by": ratios(self.beside, self.speeds).to_json() if self.beside else None,
            "first_step_seconds": self.first_step_seconds,
            **self.memory,
        }


def compare(
    script: Path,
    settings: dict[str, Any],
    ours: str,
    peers: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    between: Callable[[], object] = lambda: None,
) -> list[Measured]:
    """Measure our side and each peer in turns of about `seconds`; a peer that fails is told of and left out.

    Args:
        script: of the workers; its settings name the side.
        settings: the same for all sides.
        ours: the side that stays through all comparisons; no more than two sides are in memory at once.
        peers: one after another beside it.
        rounds: turns of each side of a comparison.
        seconds: of a turn.
        between: done after every round, while nobody works.
    """
    mine, found = Measured(ours), []
    with Worker(script, settings | {"side": ours}) as first:
        mine.first_step_seconds = first.ready["first_step_seconds"]
        for side in peers:
            measured = Measured(side)
            try:
                with Worker(script, settings | {"side": side}) as other:
                    _in_turn(first, other, measured, rounds, seconds, between)
            except WorkerFailed as error:
                print(f"{side} {error}", file=sys.stderr)
                continue
            mine.speeds += measured.beside
            found.append(measured)
            print(row(measured.to_json()), file=sys.stderr)  # seen although a later side may fail
        if not mine.speeds:
            mine.speeds = [first.turn(first.steps_in(seconds)).speed for _ in range(rounds)]
        mine.memory = first.close()
    return [mine, *found]


def _in_turn(
    first: Worker, other: Worker, measured: Measured, rounds: int, seconds: float, between: Callable[[], object]
) -> None:
    measured.first_step_seconds = other.ready["first_step_seconds"]
    for _ in range(rounds):
        measured.beside.append(first.turn(first.steps_in(seconds)).speed)
        measured.speeds.append(other.turn(other.steps_in(seconds)).speed)
        between()
    measured.memory = other.close()


def row(side: dict[str, Any], width: int = 24) -> str:
    """Return one side's speed, its spread, and by how much ours is faster, as the beginning of a line of a table."""
    speed, ratio = side["tokens_per_second"], side["ours_is_faster_by"]
    spread = (speed["high"] - speed["low"]) / speed["median"]
    times = f"{ratio['median']:.2f}x" if ratio else ""
    between = f"{ratio['low']:.2f}-{ratio['high']:.2f}" if ratio else ""
    return f"{side['side']:<{width}} {speed['median']:>10,.0f} {spread:>7.0%} {times:>9} {between:>13}"


def heading(ours: str, width: int = 24) -> str:
    """Return the heading of the columns of `row`."""
    return f"{'side':<{width}} {'tokens/s':>10} {'spread':>7} {f'{ours} is':>9} {'(range)':>13}"


def size(amount: int | None) -> str:
    """Return bytes in gigabytes, or a dash."""
    return "-" if amount is None else f"{amount / 1e9:.2f} GB"

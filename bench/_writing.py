"""Sides that continue prompts, measured in turn with `transformers` in fp32, and how they are shown."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from _results import Spread, ratios, record
from _turns import Worker, WorkerFailed

SCRIPT = Path(__file__).resolve().parent / "_writing_sides.py"
BASE = "transformers fp32"

Case = tuple[str, dict[str, Any], Sequence[str]]
"""Title, settings of the workers without `side`, `threads` and `cache`, and the sides."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the options that all benchmarks of writing have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long a turn is; one pass at least")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="cases whose title holds these words")
    return parser


def measure(name: str, cases: Iterable[Case], options: argparse.Namespace) -> None:
    """Measure cases, print a table as it grows, and record it."""
    print(f"{options.runs} turns of each side, {options.threads} threads; medians, ratios turn by turn to {BASE}")
    print(f"{'':<34}  {'side':<18}  {'tokens/s':>9}  {'ratio':>6}  range")
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for title, settings, sides in cases:
            if options.only in title:
                settings |= {"threads": options.threads, "cache": cache}
                rows += [{"case": title, **row} for row in _compared(title, settings, sides, options)]
    record(name, {"runs": options.runs, "threads": options.threads, name: rows})


def _compared(
    title: str, settings: dict[str, Any], sides: Sequence[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure each side beside the base; no more than these two are in memory, and one waits while the other works."""
    rows: list[dict[str, Any]] = []
    base_speeds: list[float] = []
    with Worker(SCRIPT, settings | {"side": BASE}) as base:
        for side in sides:
            speeds, beside = [], []
            try:
                # What the command `lavra` asks of the C library before anything is imported.
                ours = None if side.startswith("transformers") else {"MALLOC_ARENA_MAX": "1"}
                with Worker(SCRIPT, settings | {"side": side}, ours) as other:
                    for _ in range(options.runs):
                        beside.append(base.turn(base.steps_in(options.seconds)).speed)
                        speeds.append(other.turn(other.steps_in(options.seconds)).speed)
            except WorkerFailed as error:
                print(f"{side} {error}", file=sys.stderr)
                continue
            base_speeds += beside
            rows.append(_row(title, side, speeds, ratios(speeds, beside)))
    if base_speeds:
        rows.append(_row(title, BASE, base_speeds, Spread(1.0, 1.0, 1.0, len(base_speeds))))
    return rows


def _row(title: str, side: str, speeds: list[float], ratio: Spread) -> dict[str, Any]:
    speed = Spread.of(speeds)
    print(
        f"{title:<34}  {side:<18}  {speed.median:>9.1f}  {ratio.median:>6.2f}  {ratio.low:.2f} to {ratio.high:.2f}",
        flush=True,
    )
    return {"side": side, "tokens_per_second": speed.to_json(), "ratio": ratio.to_json()}

"""The table: every side and budget, beside lavra's value for that budget and lavra's time for that value."""

from __future__ import annotations

import statistics
from typing import Any

from bench import _results
from bench.peers.running import Bench, Entry
from bench.peers.runs import Point, found, punctual, time_to

from lavra.core.units import show_duration


def curve_of(bench: Bench, lavra: Entry, ladder: list[float]) -> list[Point]:
    """Return lavra's (seconds, bits per byte) for every budget that it was given, medians over the runs."""
    budgets = sorted({*ladder, *bench.options.budgets})
    measured = [some for budget in budgets if (some := _runs(bench, lavra, budget))]
    return [(_median(some, "seconds"), _median(some, "bits_per_byte")) for some in measured]


def rows_of(bench: Bench, entries: list[Entry], lavra: Entry, ladder: list[float]) -> list[dict[str, Any]]:
    """Return a row for every side and budget that was measured."""
    curve = curve_of(bench, lavra, ladder)
    return [
        _row(entry, budget, runs, _runs(bench, lavra, budget), [] if entry is lavra else curve)
        for budget in sorted(bench.options.budgets)
        for entry in entries
        if (runs := _runs(bench, entry, budget))
    ]


def _row(
    entry: Entry, budget: float, runs: list[dict[str, Any]], ours: list[dict[str, Any]], curve: list[Point]
) -> dict[str, Any]:
    values = _results.Spread.of([run["bits_per_byte"] for run in runs])
    seconds, sign = time_to(curve, values.median) if curve else (None, "")
    return {
        "side": entry.name,
        "budget": budget,
        "variant": runs[-1]["variant"],
        "steps": runs[-1]["steps"],
        "tokens": runs[-1]["tokens"],
        "seconds": _median(runs, "seconds"),
        "punctual": all(map(punctual, runs)),
        "bits_per_byte": values.to_json(),
        "ratio": _median(ours, "bits_per_byte") / values.median if ours else None,
        "lavra_seconds": seconds,
        "lavra_sign": sign,
    }


def _runs(bench: Bench, entry: Entry, budget: float) -> list[dict[str, Any]]:
    """Return the recorded runs of a side for a budget, whatever their seed: the punctual ones, where there are any."""
    key = bench.key(entry, budget, 0)
    runs = found(bench.records, "run", {name: value for name, value in key.items() if name != "seed"})
    return [run for run in runs if punctual(run)] or runs


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def table(rows: list[dict[str, Any]], ladder: list[Point]) -> str:
    """Return the rows for a person."""
    lines = [
        f"{'side':<22} {'flags':<13} {'budget':>7} {'took':>7} {'steps':>6} {'tokens':>10}  {'bits per byte':<22}"
        f" {'lavra/side':>10} {'lavra needs':>12} {'times faster':>12}"
    ]
    for row in rows:
        spread = row["bits_per_byte"]
        value = f"{spread['median']:.4f}"
        if spread["runs"] > 1:
            value += f" ({spread['low']:.3f}–{spread['high']:.3f})"
        late = " " if row["punctual"] else "!"
        need = "" if row["lavra_seconds"] is None else f"{row['lavra_sign']}{row['lavra_seconds']:.1f} s"
        times = {"<": ">", ">": "<", "": ""}[row["lavra_sign"]]
        faster = "" if row["lavra_seconds"] is None else f"{times}{row['seconds'] / row['lavra_seconds']:.1f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
        lines.append(
            f"{row['side']:<22} {row['variant']:<13} {show_duration(row['budget']):>7} {row['seconds']:>6.1f}{late}"
            f" {row['steps']:>6} {row['tokens']:>10,}  {value:<22} {ratio:>10} {need:>12} {faster:>12}"
        )
    if any(not row["punctual"] for row in rows):
        lines.append(
            "! off its budget, on a busy machine: the same command repeats these runs, planned by what they took"
        )
    lines.append("lavra's ladder: " + ", ".join(f"{seconds:.0f} s {value:.4f}" for seconds, value in sorted(ladder)))
    return "\n".join(lines)

"""What a training step costs as the model grows: seconds against depth, width, context, vocabulary and batch.

Usage: python bench/scaling.py [--rounds 3] [--steps 2] [--tiny] [--json]; one measure at a time is changed round a base
shape, the others stay. Beside each median stands the exact FLOP count of the step, and what the base's speed would make
of it: a step that takes longer than that uses the machine worse than the base. All shapes are measured in rounds, one
after another, not compiled, in the precision and with the optimiser (AdamW) of a run. Draws bench/results/scaling.html.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from _results import Spread, folder, record
from lavra.models.native.building import build_decoder
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.flops import count_flops
from lavra.planning.machine.hardware import measure_matrix_peak
from lavra.reports.plots import Axis, Series, line_plot
from lavra.training.devices import choose_device, synchronize, use_threads
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.precision import choose_precision
from lavra.training.trainer import Trainer


@dataclass(frozen=True)
class Point:
    """One shape to measure: a model, and the rows of a step."""

    spec: DecoderSpec
    rows: int

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.spec.context


BASE = Point(replace(PRESETS["gpt2-124m"], vocabulary=8192, context=256, depth=4, width=256, heads=4), rows=8)
AXES: dict[str, tuple[int, ...]] = {
    "depth": (1, 2, 4, 8, 12),
    "width": (64, 128, 256, 384, 512),
    "context": (64, 128, 256, 512, 1024),
    "vocabulary": (1024, 4096, 8192, 16384, 32768),
    "rows": (1, 2, 4, 8, 16),
}
TINY = Point(replace(BASE.spec, vocabulary=512, context=64, depth=2, width=64, heads=1), rows=2)
TINY_AXES = {"depth": (1, 2), "width": (64, 128), "context": (32, 64), "vocabulary": (256, 512), "rows": (1, 2)}


def changed(base: Point, axis: str, value: int) -> Point:
    """Return the base with one measure changed; heads stay 64 wide, and a longer context has fewer rows of it."""
    if axis == "rows":
        return replace(base, rows=value)
    if axis == "width":
        return replace(base, spec=replace(base.spec, width=value, heads=max(1, value // 64)))
    spec = replace(base.spec, **{axis: value})
    return Point(spec, max(1, base.tokens // value) if axis == "context" else base.rows)


def points(base: Point, axes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, int, Point]]:
    """Yield axis, value and shape of everything to measure; the base comes once on every axis."""
    for axis, values in axes.items():
        for value in values:
            yield axis, value, changed(base, axis, value)


def trainer_of(point: Point, device: torch.device, precision: Any) -> Trainer:
    """Return a warmed-up trainer of a shape."""
    dry_run = DryRun(
        point.spec, point.spec.context, precision, OptimizerOptions("adamw"), isolate=False, micro_batches=1
    )
    trainer = dry_run.trainer(point.rows, lambda: build_decoder(point.spec), device)
    trainer.run_step()
    return trainer


def seconds_of(trainer: Trainer, steps: int) -> float:
    """Return the seconds of a step; the first, after another shape's turn, is not counted."""
    trainer.run_step()
    synchronize(trainer.device)
    begin = time.perf_counter()
    for _ in range(steps):
        trainer.run_step()
    synchronize(trainer.device)
    return (time.perf_counter() - begin) / steps


def measure(base: Point, axes: dict[str, tuple[int, ...]], rounds: int, steps: int) -> dict[str, Any]:
    """Return the lines of all axes, and the ceiling."""
    use_threads(None)
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    wanted = {point for _, _, point in points(base, axes)} | {base}
    trainers = {point: trainer_of(point, device, precision) for point in wanted}
    times: dict[Point, list[float]] = {point: [] for point in wanted}
    ceilings = []
    for _ in range(rounds):
        ceilings.append(measure_matrix_peak(device, precision, 0.5))
        for point, trainer in trainers.items():
            times[point].append(seconds_of(trainer, steps))
    flops = {point: count_flops(point.spec, point.spec.context).exact * point.tokens for point in wanted}
    measured = {point: Spread.of(seconds) for point, seconds in times.items()}
    ceiling = Spread.of(ceilings)
    return {
        "base": base.spec.to_dict() | {"rows": base.rows},
        "device": str(device),
        "precision": precision,
        "ceiling_flops": ceiling.to_json(),
        "lines": [
            {
                "axis": axis,
                "value": value,
                "tokens": point.tokens,
                "seconds": measured[point].to_json(),
                "flops": flops[point],
                "predicted_seconds": measured[base].median * flops[point] / flops[base],
                "share_of_ceiling": flops[point] / measured[point].median / ceiling.median,
            }
            for axis, value, point in points(base, axes)
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures for people."""
    ceiling = result["ceiling_flops"]["median"] / 1e9
    lines = [
        f"ceiling {ceiling:,.0f} GFLOP/s of {result['precision']}, on {result['device']}",
        f"{'axis':<11} {'value':>6} {'ms':>9} {'spread':>7} {'GFLOP':>9} {'by FLOPs':>9} {'ratio':>10} {'ceiling':>8}",
    ]
    for line in result["lines"]:
        seconds = line["seconds"]
        spread = (seconds["high"] - seconds["low"]) / seconds["median"]
        against = seconds["median"] / line["predicted_seconds"]
        lines.append(
            f"{line['axis']:<11} {line['value']:>6} {1000 * seconds['median']:>9.1f} {spread:>7.0%} "
            f"{line['flops'] / 1e9:>9.1f} {1000 * line['predicted_seconds']:>9.1f} {against:>9.2f}x "
            f"{line['share_of_ceiling']:>8.1%}"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a page with a plot for every axis: the measured seconds beside what the FLOPs make of them."""
    plots = []
    for axis in dict.fromkeys(line["axis"] for line in result["lines"]):
        lines = [line for line in result["lines"] if line["axis"] == axis]
        measured = [(float(line["value"]), 1000 * line["seconds"]["median"]) for line in lines]
        by_flops = [(float(line["value"]), 1000 * line["predicted_seconds"]) for line in lines]
        series = [Series("measured", measured, dots=True), Series("by FLOPs", by_flops, faint=True)]
        across, up = Axis(axis, logarithmic=True), Axis("milliseconds of a step", logarithmic=True)
        plots.append(line_plot(f"a step against {axis}", series, across, up))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<!doctype html><meta charset=utf-8><title>scaling</title>\n" + "\n".join(plots), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a turn")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    base, axes = (TINY, TINY_AXES) if arguments.tiny else (BASE, AXES)
    result = measure(base, axes, arguments.rounds, arguments.steps)
    record("scaling", result)
    picture = folder() / "scaling.html"
    draw(result, picture)
    if arguments.json:
        print(json.dumps({"scaling": result}))
    else:
        print(table(result))
        print(f"plot: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The record of a sweep: how far each of its points came, and which is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.sweep_folder import SweepFolder
from lavra.evaluation.labels.metrics import SMALLER_IS_BETTER

_LIKELIHOOD = frozenset({"loss", "perplexity", "bits_per_byte", "bits_per_character", "bits_per_word"})


def is_error(measure: str) -> bool:
    """Return whether less of a figure is better.

    Args:
        measure: Name of the figure.
    """
    return measure in SMALLER_IS_BETTER or measure in _LIKELIHOOD


@dataclass(frozen=True)
class Reached:
    """What a point has reached at a rung, over all of its seeds.

    Attributes:
        step: Number of steps done.
        steps: Number of steps of the whole run.
        measure: The figure: `value`, `low` and `high`, each the mean over the seeds.
        loss: The mean loss; None where it is not known.
        forecast: The mean forecast of the figure at the end of the run; None where there is none.
        seeds: The figure with each seed.
        parameters: Number of parameters of the model.
    """

    step: int
    steps: int
    measure: Mapping[str, float | None]
    loss: float | None
    forecast: float | None
    seeds: Sequence[float]
    parameters: int

    @property
    def value(self) -> float:
        """The figure."""
        value = self.measure["value"]
        assert value is not None
        return value


@dataclass(frozen=True)
class PointRecord:
    """One point of the space of a sweep.

    Attributes:
        number: Number of the point, from 0.
        values: The value of each field, by its name.
        reached: What it has reached at each rung, by the number of the rung.
        failed: Why it could not be trained; empty where it could.
        failed_at: The rung on the way to which it failed.
    """

    number: int
    values: Mapping[str, Any]
    reached: Mapping[int, Reached]
    failed: str = ""
    failed_at: int = 0

    @property
    def last(self) -> Reached | None:
        """What it has reached at its last rung; None where it has reached none."""
        return self.reached[max(self.reached)] if self.reached else None


@dataclass(frozen=True)
class SweepRecord:
    """A sweep so far.

    Attributes:
        path: Its folder.
        status: `running`, `finished` or `interrupted`.
        method: How its points were chosen.
        measure: Name of the figure that chooses; empty before the first trial.
        fields: The swept fields, as in `sweep.json`.
        points: Its points.
        rungs: The rungs, as shares of a run.
        seeds: The seeds with which each point is trained.
        result: The outcome, from `result.json`; empty while it is not finished.
        spent: Seconds that it has taken so far.
        lines: The lines of `trials.jsonl`.
    """

    path: Path
    status: str
    method: str
    measure: str
    fields: Sequence[Mapping[str, Any]]
    points: Sequence[PointRecord]
    rungs: Sequence[float]
    seeds: Sequence[int]
    result: Mapping[str, Any]
    spent: float
    lines: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @cached_property
    def last_rung(self) -> int:
        """Number of the last rung."""
        return len(self.rungs) - 1

    @property
    def best(self) -> PointRecord | None:
        """The best of the points that were trained to the end; None before there is one."""
        return next(iter(self.ranked(self.last_rung)), None)

    @property
    def done(self) -> int:
        """Number of points of which it is known what became of them: they reached the first rung, or failed."""
        return sum(1 for point in self.points if point.reached or point.failed)

    def ranked(self, rung: int, *, by_forecast: bool = False) -> list[PointRecord]:
        """Return the points that reached a rung, the best first; those that failed by then are not among them.

        Args:
            rung: Number of the rung.
            by_forecast: Whether the forecast of the end decides, where there is one for each of them.
        """
        there = [
            point for point in self.points if rung in point.reached and not (point.failed and point.failed_at <= rung)
        ]
        forecasts = [point.reached[rung].forecast for point in there]
        sign = 1.0 if is_error(self.measure) else -1.0

        def key(point: PointRecord) -> tuple[float, float, int]:
            found = point.reached[rung]
            value = found.forecast if by_forecast and None not in forecasts else found.value
            return sign * (found.value if value is None else value), found.loss or 0.0, point.number

        return sorted(there, key=key)

    def order(self) -> list[PointRecord]:
        """Return all points: those that came farthest first, of these the best, and then those that failed."""
        found: list[PointRecord] = []
        for rung in range(self.last_rung, -1, -1):
            found += [point for point in self.ranked(rung) if point not in found]
        return found + [point for point in self.points if point not in found]


def read_sweep(sweep: SweepFolder) -> SweepRecord:
    """Read the record of a sweep, which may be in progress.

    Args:
        sweep: Its folder.

    Raises:
        CorruptFile: If a file is damaged.
    """
    design, lines = sweep.design, sweep.lines
    seeds = design.get("seeds", [])
    points = [
        _point(number, values, [line for line in lines if line["point"] == number], len(seeds))
        for number, values in enumerate(design.get("points", []))
    ]
    return SweepRecord(
        sweep.path,
        _status(sweep.run),
        design.get("method", ""),
        next((line["name"] for line in lines if "name" in line), ""),
        design.get("fields", []),
        points,
        design.get("rungs", [1.0]),
        seeds,
        sweep.run.result,
        max((line.get("spent") or 0.0 for line in lines), default=0.0),
        lines,
    )


def _status(run: RunFolder) -> str:
    """Return the state of a sweep, also where this process itself is at its end."""
    return "finished" if run.result else run.status


def _point(number: int, values: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], seeds: int) -> PointRecord:
    fault = next((line for line in lines if line.get("failed")), {})
    reached: dict[int, Reached] = {}
    for rung in sorted({line["rung"] for line in lines if "measure" in line}):
        by_seed = {line["seed"]: line for line in lines if line.get("rung") == rung and "measure" in line}
        if len(by_seed) == seeds:
            reached[rung] = _reached([by_seed[seed] for seed in sorted(by_seed)])
    return PointRecord(number, values, reached, str(fault.get("failed", "")), fault.get("rung", 0))


def _reached(lines: Sequence[Mapping[str, Any]]) -> Reached:
    measures = [line["measure"] for line in lines]
    ends = {name: _mean([one.get(name) for one in measures]) for name in ("value", "low", "high")}
    return Reached(
        lines[0]["step"],
        lines[0]["steps"],
        ends,
        _mean([line.get("loss") for line in lines]),
        _mean([line.get("forecast") for line in lines]),
        [one["value"] for one in measures],
        lines[0].get("parameters") or 0,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None

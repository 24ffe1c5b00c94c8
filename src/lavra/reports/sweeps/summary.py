"""A sweep in words: where it stands, its points in a table, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavra.core.disk.sweep_folder import RECIPE, SweepFolder
from lavra.core.messages.catalogue import told
from lavra.core.program import command, last_lines
from lavra.core.units import counted, show_duration
from lavra.reports.formatting import UNKNOWN, shown, text_table, title
from lavra.reports.sweeps.record import PointRecord, SweepRecord, is_error, read_sweep

PAGE = "report.html"
"""Name of the page in the folder of a sweep."""

_MOST = 20
"""Most points that the summary lists; the page lists all."""


def summary(sweep: SweepFolder) -> str:
    """Return a sweep as text: its state, its points from the best on, and what to do next.

    Args:
        sweep: Its folder.
    """
    record = read_sweep(sweep)
    rows = point_rows(record)
    lines = [f"{record.path}: {told(headline(record))}", ""]
    if rows:
        lines += [text_table(point_headers(record), rows[:_MOST], left=1 + len(record.fields)), ""]
    if len(rows) > _MOST:
        lines += [f"… and {counted(len(rows) - _MOST, 'point')} more in {record.path / PAGE}", ""]
    return "\n".join([*lines, *(f"note: {note}" for note in notes(record)), *closing_lines(record)])


def headline(record: SweepRecord) -> str:
    """Return the state and the outcome of a sweep in one line."""
    parts = [record.status, counted(len(record.points), "point")]
    if record.status != "finished" and record.points:
        parts.append(f"{record.done} of them measured")
    best = chosen(record)
    if best and record.measure:
        where = "on data that did not choose it" if best.get("measured_on_other_data") else "on the data that chose it"
        parts.append(f"{title(record.measure)} {shown(record.measure, record.result.get(record.measure))} {where}")
    if record.spent:
        parts.append(show_duration(record.spent))
    return "; ".join(parts)


def chosen(record: SweepRecord) -> Mapping[str, Any]:
    """Return what `result.json` says of the best point; nothing while the sweep is not finished."""
    return (record.result.get("sweep") or {}).get("best") or {}


def notes(record: SweepRecord) -> list[str]:
    """Return what a person should know of the figures, a sentence each."""
    found = []
    best = chosen(record)
    if best:
        by = shown(record.measure, best.get("chosen_by"))
        if best.get("measured_on_other_data"):
            found.append(
                "the figure that is reported was measured on validation data that chose nothing; the one on the data "
                f"that chose from {counted(len(record.points), 'point')} ({by}) is too good by selection bias, and of "
                "other data, so that the two do not compare"
            )
        else:
            found.append(
                f"there was no second part of the validation data, so that the figure ({by}) was measured on the data "
                f"that chose the best of {len(record.points)}: it is too good by selection bias"
            )
    failed = [point for point in record.points if point.failed]
    if failed:
        verb = "counts" if len(failed) == 1 else "count"
        found.append(f"{counted(len(failed), 'point')} failed, and {verb} as the worst")
    edge = _at_the_edge(record)
    if edge:
        found.append(f"the best value of {edge} is at the end of its values: further ones may be better")
    return found


def _at_the_edge(record: SweepRecord) -> str:
    """Return the swept numbers whose best value is the smallest or the largest of those tried, as a list in words."""
    best = record.best if record.status == "finished" else None
    names = []
    for field in record.fields if best is not None else ():
        values = [point.values.get(field["path"]) for point in record.points]
        numbers = sorted({value for value in values if isinstance(value, int | float) and not isinstance(value, bool)})
        assert best is not None
        if len(numbers) >= 3 and best.values.get(field["path"]) in (numbers[0], numbers[-1]):
            names.append(field["flag"])
    return " and of ".join(names)


def point_headers(record: SweepRecord) -> list[str]:
    """Return the titles of the table of points."""
    better = "lower" if is_error(record.measure) else "higher"
    figure = f"{title(record.measure)} ({better} is better)" if record.measure else "figure"
    return ["point", *(field["flag"] for field in record.fields), figure, "step", "state"]


def point_rows(record: SweepRecord) -> list[list[str]]:
    """Return a row for each point, the one that came farthest and is best first."""
    rows = []
    for point in record.order():
        last = point.last
        rows.append(
            [
                str(point.number + 1),
                *(value_of(point, field["path"]) for field in record.fields),
                UNKNOWN if last is None else shown(record.measure, last.measure),
                UNKNOWN if last is None else f"{last.step:,}",
                state_of(record, point),
            ]
        )
    return rows


def value_of(point: PointRecord, name: str) -> str:
    """Return the value of a field at a point, in words."""
    value = point.values.get(name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def state_of(record: SweepRecord, point: PointRecord) -> str:
    """Return what became of a point, in words."""
    if point.failed:
        return f"failed: {point.failed}"
    if not point.reached:
        return "not trained" if record.status == "finished" else "waiting"
    rung = max(point.reached)
    if rung == record.last_rung:
        return "trained to the end"
    place = f"1/{round(1 / record.rungs[rung])} of the run"
    return f"stopped after {place}" if _is_decided(record, rung) else f"paused after {place}"


def _is_decided(record: SweepRecord, rung: int) -> bool:
    """Return whether it is known which points go on after a rung."""
    return record.status == "finished" or any(rung + 1 in point.reached for point in record.points)


def closing_lines(record: SweepRecord) -> list[str]:
    """Return the place of the outcome and the commands that a person wants next, a line each."""
    if record.status == "running":
        return [f"the sweep is in progress; page so far: {command('report', record.path)}"]
    best = chosen(record)
    if not best:
        return [f"continue: {command('resume', record.path)}"]
    recipe = record.path / RECIPE
    page = record.path / PAGE
    return last_lines(
        [
            ("best recipe", str(recipe)),
            ("train with it", command("train", "--recipe", recipe)),
            ("its run", str(Path(str(best.get("run"))))),
            ("page", str(page) if page.exists() else command("report", record.path)),
        ]
    )

"""The page of a sweep: every point with its figure, each swept field against it, and what was stopped when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lavra.core.disk.sweep_folder import RECIPE, SweepFolder
from lavra.core.program import command
from lavra.core.progress import log
from lavra.core.units import counted, show_count, show_duration
from lavra.reports.formatting import setting, shown, title
from lavra.reports.page import Section, Table, render_page, write_html
from lavra.reports.plots import Axis, Series, line_plot
from lavra.reports.sweeps.record import PointRecord, SweepRecord, is_error, read_sweep
from lavra.reports.sweeps.summary import PAGE, chosen, headline, notes, point_headers, point_rows, value_of

_LOGARITHMIC = 8.0
"""Ratio of the largest to the smallest value of a field from which on its axis is logarithmic."""

_MOST_LINES = 27
"""Most points whose way over the rungs is drawn."""


def write_sweep_page(sweep: SweepFolder, out: Path | None = None) -> SweepRecord:
    """Write the page of a sweep, and return the record that it shows.

    Args:
        sweep: The folder of the sweep, which may be in progress.
        out: File to write; `report.html` in the folder if None.

    Raises:
        InputError: If the file cannot be written.
        CorruptFile: If a file of the sweep is damaged.
    """
    record = read_sweep(sweep)
    write_html(out or sweep.path / PAGE, sweep_page(record))
    return record


def sweep_page(record: SweepRecord) -> str:
    """Return the page of a sweep as HTML, without scripts and external resources, and with all texts escaped."""
    sections = [_outcome(record), _points(record), _fields(record), _rungs(record)]
    return render_page(record.name, headline(record), notes(record), sections)


@contextmanager
def sweep_page_at_the_end(sweep: SweepFolder) -> Iterator[None]:
    """Write the page of a sweep when the block ends, also when it ends by an error; a page that cannot be written is
    only warned about."""
    try:
        yield
    finally:
        if sweep.design:
            try:
                write_sweep_page(sweep)
            except Exception as error:
                log(f"warning: the page could not be written: {error}; {command('report', sweep.path)} tries again")


def _outcome(record: SweepRecord) -> Section:
    best = chosen(record)
    if not best:
        return Section("Outcome", sentence="The sweep is not finished.")
    facts = [(field["flag"], setting(best["values"].get(field["path"]))) for field in record.fields]
    name = title(record.measure)
    if best.get("measured_on_other_data"):
        facts.append((f"{name}, on data that did not choose", shown(record.measure, record.result[record.measure])))
    facts.append((f"{name}, on the data that chose", shown(record.measure, best["chosen_by"])))
    facts += [("recipe", str(record.path / RECIPE)), ("run", str(best["run"]))]
    facts.append(("train with it", command("train", "--recipe", record.path / RECIPE)))
    return Section("Outcome", facts=facts, tables=_beside(record, best))


def _beside(record: SweepRecord, best: Mapping[str, Any]) -> list[Table]:
    """Return the table of the other figures of the best point on data that did not choose it."""
    figures = best.get("measured_on_other_data") or {}
    rows = [
        [title(name), shown(name, value)]
        for name, value in figures.items()
        if name != record.measure and isinstance(value, Mapping) and "low" in value
    ]
    return [Table(["also, on the same data", ""], rows)] if rows else []


def _points(record: SweepRecord) -> Section:
    words = [f"{record.method}, {counted(len(record.points), 'point')}"]
    if len(record.seeds) > 1:
        words.append(f"{counted(len(record.seeds), 'seed')} each, whose means are shown")
    if record.spent:
        words.append(show_duration(record.spent))
    return Section(
        "Points",
        sentence="; ".join(words) + ".",
        tables=[Table(point_headers(record), point_rows(record), words=1 + len(record.fields))],
        note="In brackets, 95 % confidence intervals for other data of the same kind. They do not contain what another "
        "seed of the training would change, and points that are compared were measured on the same data.",
    )


def _fields(record: SweepRecord) -> Section:
    plots = [_scatter(record, field["path"], field["flag"]) for field in record.fields]
    return Section(
        "Each field",
        pictures=[plot for plot in plots if plot],
        note="Each dot is a point at its last rung, with its interval. Points that were stopped earlier are measured "
        "earlier, and cannot be compared with those that went on.",
    )


def _scatter(record: SweepRecord, name: str, flag: str) -> str:
    """Return a plot of a field against the figure, a colour for each rung; empty where nothing is measured."""
    axis, place = _axis(record, name, flag)
    dots, bars = [], []
    for rung in range(record.last_rung, -1, -1):
        there = sorted(
            (point for point in record.points if point.reached and max(point.reached) == rung and not point.failed),
            key=place,
        )
        if there:
            dots.append(Series(_rung_name(record, rung), _separate([(place(one), _value(one)) for one in there])))
            bars += [end for one in there for end in _interval(one, place(one))]
    if bars:
        bars.sort(key=lambda pair: pair[0][0])
        dots.append(Series("95 % intervals", [point for pair in bars for point in pair], faint=True))
    figure = f"{title(record.measure)} ({'lower' if is_error(record.measure) else 'higher'} is better)"
    return line_plot(flag, dots, axis, Axis(figure, "{:.4g}".format))


def _separate(points: Sequence[tuple[float, float]]) -> list[tuple[float, float | None]]:
    """Return points with a gap after each, so that no line joins them."""
    return [one for across, up in points for one in ((across, up), (across, None))]


def _interval(point: PointRecord, place: float) -> list[list[tuple[float, float | None]]]:
    last = point.last
    low, high = (None, None) if last is None else (last.measure.get("low"), last.measure.get("high"))
    return [] if low is None or high is None else [[(place, low), (place, high), (place, None)]]


def _value(point: PointRecord) -> float:
    assert point.last is not None
    return point.last.value


def _axis(record: SweepRecord, name: str, flag: str) -> tuple[Axis, Any]:
    """Return the axis of a field, and the function that places a point on it; words are placed one after another."""
    values = [point.values.get(name) for point in record.points]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = [float(value) for value in values if value is not None]
        logarithmic = min(numbers) > 0 and max(numbers) / min(numbers) >= _LOGARITHMIC
        return Axis(flag, _number, logarithmic), lambda point: float(point.values[name])
    words = list(dict.fromkeys(value_of(point, name) for point in record.points))

    def word(place: float) -> str:
        whole = round(place)
        return words[whole] if abs(place - whole) < 1e-9 and 0 <= whole < len(words) else ""

    return Axis(flag, word), lambda point: float(words.index(value_of(point, name)))


def _number(value: float) -> str:
    return show_count(value) if value >= 1000 else f"{value:.3g}"


def _rung_name(record: SweepRecord, rung: int) -> str:
    return "trained to the end" if rung == record.last_rung else f"after 1/{round(1 / record.rungs[rung])} of the run"


def _rungs(record: SweepRecord) -> Section:
    """Return the section of what was stopped when; empty without successive halving."""
    if len(record.rungs) < 2 or not record.measure:
        return Section("Rungs")
    shown_points = [point for point in record.order() if point.reached][:_MOST_LINES]
    lines = [
        Series(
            f"{point.number + 1}",
            [(100 * record.rungs[rung], point.reached[rung].value) for rung in sorted(point.reached)],
            dots=True,
        )
        for point in shown_points
    ]
    plot = line_plot(
        "What was stopped when",
        lines,
        Axis("% of the run", "{:.0f}".format),
        Axis(title(record.measure), "{:.4g}".format),
    )
    rows = []
    for rung, share in enumerate(record.rungs):
        ranked = record.ranked(rung)
        rows.append([f"{share:.1%}", str(len(ranked)), ", ".join(str(point.number + 1) for point in ranked) or "–"])
    table = Table(["of the run", "points", "from the best to the worst"], rows, words=3)
    return Section(
        "Rungs",
        sentence="All points were trained for a part of the run, and the best third went on from where they paused.",
        pictures=[plot] if plot else [],
        tables=[table],
        note="The runs were planned for their whole length from the start: one that went on is to the bit the run that "
        "never paused.",
    )

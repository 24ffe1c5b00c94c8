"""Tables of runs for the terminal: one line per run, and one run in full."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.run_shapes import CONFIG, METRICS
from lavra.core.disk.shapes import demand
from lavra.core.disk.sweep_folder import SweepFolder
from lavra.core.errors import CorruptFile
from lavra.core.messages.catalogue import told
from lavra.core.units import counted, show_count, show_duration
from lavra.reports.formatting import shown, text_table, title
from lavra.reports.labels.headline import headline_of

_UNKNOWN = "–"


def run_line(run: RunFolder) -> dict[str, Any]:
    """Return the figures of a run for the list of runs, by name; figures that are not known yet are None.

    The figures of a finished run come from `result.json`, those of any other from its last metrics. If the run is
    damaged, `status` says how, and the figures are missing.

    Args:
        run: Run folder.
    """
    line: dict[str, Any] = {"run": str(run.path)}
    try:
        config, plan, figures = _config(run), run.plan, _figures(run)
        return line | {
            "data": figures.get("data") or config.get("data"),
            "parameters": plan.get("parameters") or figures.get("parameters"),
            "context": plan.get("context"),
            "tokens": figures.get("tokens"),
            "budget_seconds": plan.get("budget_seconds"),
            "tokens_per_second": figures.get("tokens_per_second"),
            "perplexity": figures.get("perplexity"),
            "bits_per_byte": figures.get("bits_per_byte"),
            "headline": None if (found := headline_of(figures)) is None else {"metric": found[0], **found[1]},
            "status": run.status + _trials(run),
        }
    except CorruptFile as error:
        return line | {"status": f"damaged: {error.message}"}


def run_record(run: RunFolder) -> dict[str, Any]:
    """Return the record of a run as JSON values: its request, plan, result, last metrics and last events.

    Args:
        run: Run folder.

    Raises:
        CorruptFile: if a file of the run is damaged.
    """
    metrics = run.metrics.read()
    return {
        "run": str(run.path),
        "status": run.status,
        "config": _config(run),
        "plan": run.plan,
        "result": run.result,
        "last_metrics": metrics[-1] if metrics else {},
        "events": run.events[-10:],
    }


def show_runs(runs: Iterable[RunFolder]) -> str:
    """Return a table with one line for each run, as text."""
    found = [run_line(run) for run in runs]
    rows = [
        [
            line["run"],
            _data(line.get("data")),
            line["status"],
            _shown(line.get("parameters"), show_count),
            _shown(line.get("context"), show_count),
            _shown(line.get("tokens"), show_count),
            _shown(line.get("budget_seconds"), show_duration),
            _shown(line.get("tokens_per_second"), show_count),
            _shown(line.get("perplexity"), "{:.2f}".format),
            _quality(line),
        ]
        for line in found
    ]
    headers = ["run", "data", "status", "parameters", "context", "tokens", "budget", "tokens/s"]
    lines = [line.get("headline") for line in found]
    return text_table([*headers, "perplexity", "bits/byte, or metric" if any(lines) else "bits/byte"], rows, left=3)


def _quality(line: Mapping[str, Any]) -> str:
    """Return the bits per byte of a run, or the first metric of one that predicts labels, with its interval."""
    first = line.get("headline")
    if first is None:
        return _shown(line.get("bits_per_byte"), "{:.4f}".format)
    return f"{title(first['metric'])} {shown(first['metric'], first)}"


def show_run(run: RunFolder) -> str:
    """Return a run in full as text, in sections: request, plan, result, last metrics, forecast, data usage and events.

    Titles are in the language of the user; settings, figures and events are as the files of the run have them.

    Args:
        run: Run folder.

    Raises:
        CorruptFile: if a file of the run is damaged.
    """
    record = run_record(run)
    data_usage = record["result"].get("data_usage") or []
    predicted = record["result"].get("predicted") or {}
    result = {name: value for name, value in record["result"].items() if name not in ("data_usage", "predicted")}
    sections = [f"{record['run']}: {told(record['status'])}"]
    for heading, values in (
        ("request", record["config"]),
        ("plan", record["plan"]),
        ("result", result),
        ("last metrics", record["last_metrics"]),
    ):
        if values:
            sections.append(f"{told(heading)}\n" + "\n".join(_lines(values)))
    if predicted:
        sections.append(f"{told('predicted against actual')}\n" + told(predicted_table(predicted)))
    if data_usage:
        sections.append(f"{told('data usage')}\n" + told(_data_usage(data_usage)))
    if record["events"]:
        sections.append(f"{told('events')}\n" + "\n".join(f"  {line}" for line in record["events"]))
    return "\n\n".join(sections)


def _figures(run: RunFolder) -> dict[str, Any]:
    """Return the final figures, or the latest value of each figure if there is no result yet."""
    if run.result:
        return run.result
    latest: dict[str, Any] = {}
    for number, record in enumerate(run.metrics.read(), start=1):
        latest.update(demand(METRICS, record, f"{run.metrics.path}:{number}"))
    return latest


def _config(run: RunFolder) -> dict[str, Any]:
    path = run.path / "config.toml"
    try:
        return demand(CONFIG, tomllib.loads(run.config), str(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CorruptFile(f"{path} is damaged: {error}") from error


def _trials(run: RunFolder) -> str:
    """Return how far a sweep is, in words; nothing for a run."""
    sweep = SweepFolder(run)
    if not sweep.design:
        return ""
    from lavra.reports.sweeps.record import read_sweep  # imports numpy

    record = read_sweep(sweep)
    done = "" if record.result else f"{record.done} of "
    return f", sweep: {done}{counted(len(record.points), 'point')}"


def _data(data: Any) -> str:
    """Return short names of the data: the last part of each path, and the number of further ones."""
    if not data:
        return _UNKNOWN
    names = [Path(str(name)).name or str(name) for name in (data if isinstance(data, list) else [data])]
    return ", ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "")


def _shown(value: Any, show: Callable[[float], str]) -> str:
    value = value.get("value") if isinstance(value, Mapping) else value
    return show(value) if isinstance(value, int | float) else _UNKNOWN


def _lines(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield lines of names and values: nested mappings have dotted names, and estimates have intervals."""
    for name, value in values.items():
        if isinstance(value, Mapping) and set(value) == {"value", "low", "high"}:
            interval = [_number(value[end]) for end in ("value", "low", "high")]
            yield f"  {prefix + name:<28}  {interval[0]}  ({interval[1]} to {interval[2]})"
        elif isinstance(value, Mapping):
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield f"  {prefix + name:<28}  {_number(value)}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_number(item) for item in value)
    return _UNKNOWN if value is None else str(value)


def predicted_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table that compares the forecasts of the plan with the results of the run, as text.

    Args:
        figures: For each figure its `predicted` and `actual` value and the relative `difference`.
    """
    columns = ("figure", "predicted", "actual", "difference")
    rows = [
        [name, _number(found["predicted"]), _number(found["actual"]), f"{found['difference']:+.1%}"]
        for name, found in figures.items()
    ]
    return text_table(columns, rows)


def _data_usage(entries: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of the data usage: how much of each source was trained on, and what is left of the epoch."""
    columns = ("source", "tokens", "epochs", "seen", "left", "total")
    titles = ("source", "size", "complete epochs", "trained on in this epoch", "left in this epoch", "total")
    rows = [[_number(entry.get(column)) for column in columns] for entry in entries]
    return text_table(titles, rows)

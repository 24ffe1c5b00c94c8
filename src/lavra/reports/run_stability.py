"""Section of the page of a run about its stability: how the layers developed, and which of them stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lavra.core.units import counted
from lavra.reports.page import Section, Table
from lavra.reports.plots import Axis, Series, line_plot
from lavra.reports.run_files import RunFiles
from lavra.training.stability_words import outstanding, short_name

_MOST_LINES = 8
"""Lines of a plot; of more blocks or tensors an even selection is drawn, and all are in the table."""

_STEP = Axis("step")
_PLOTS = (
    ("layers", "activation", "Output of the blocks", Axis("root mean square, logarithmic", "{:.3g}".format, True)),
    ("layers", "attention_logit", "Largest attention logit", Axis("logit", "{:.3g}".format)),
    (
        "tensors",
        "gradient",
        "Gradient norm of the largest tensors",
        Axis("L2 norm, logarithmic", "{:.3g}".format, True),
    ),
    ("tensors", "update", "Update of these tensors", Axis("share of the size, logarithmic", "{:.3g}".format, True)),
)

_COLUMNS = ("weight", "gradient", "update")
_LAYER_COLUMNS = ("activation", "activation_max", "attention_logit")


def stability_section(run: RunFiles) -> Section:
    """Return the section of the norms by layer; empty if they were not recorded.

    Args:
        run: Record of the run.
    """
    records = run.stability
    if not records:
        return Section("Stability")
    found = outstanding(records)
    last = records[-1]
    sentence = f"At step {last.get('step')}: {'; '.join(found)}." if found else "No layer stands out."
    tensors, layers = last.get("tensors") or {}, last.get("layers") or {}
    tables = [
        Table(("tensor", "root mean square", "gradient norm", "share changed in the step"), _rows(tensors, _COLUMNS)),
        Table(("block", "root mean square", "largest", "largest attention logit"), _rows(layers, _LAYER_COLUMNS)),
    ]
    return Section(
        "Stability",
        sentence,
        tables=[table for table in tables if table.rows],
        pictures=[picture for picture in (_plot(records, *one) for one in _PLOTS) if picture],
        note=f"{counted(len(records), 'record')}; the tables show the last, of step {last.get('step')}. Gradients are "
        "those before clipping; activations are measured without dropout. All numbers are in stability.jsonl.",
    )


def _rows(parts: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> list[list[str]]:
    return [[short_name(name), *(_cell(part.get(column)) for column in columns)] for name, part in parts.items()]


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "–"


def _plot(records: Sequence[Mapping[str, Any]], kind: str, key: str, title: str, axis: Axis) -> str:
    """Return a plot of one number of the blocks, or of the tensors with the largest gradients, over the steps."""
    parts = records[-1].get(kind) or {}
    names = [name for name, part in parts.items() if isinstance(part.get(key), int | float)]
    if kind == "tensors":
        ordered = sorted(parts, key=lambda name: -_number(parts[name].get("gradient")))
        names = [name for name in ordered if name in names][:_MOST_LINES]
    elif len(names) > _MOST_LINES:
        names = [names[round(number * (len(names) - 1) / (_MOST_LINES - 1))] for number in range(_MOST_LINES)]
    series = [
        Series(short_name(name), [_point(record, kind, name, key) for record in records], dots=True) for name in names
    ]
    return line_plot(title, series, _STEP, axis)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _point(record: Mapping[str, Any], kind: str, name: str, key: str) -> tuple[float, float | None]:
    value = ((record.get(kind) or {}).get(name) or {}).get(key)
    return float(record.get("step") or 0), float(value) if isinstance(value, int | float) else None

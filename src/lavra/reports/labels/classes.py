"""Section of the classes or labels: how well each one is found, with intervals."""

from __future__ import annotations

from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.by_class import ClassScores, scores_by_class
from lavra.reports.formatting import UNKNOWN
from lavra.reports.labels.confusion import MOST_CLASSES
from lavra.reports.labels.record import LabelRecord
from lavra.reports.page import Section, Table

_MOST_SHOWN = 100

_NOTE = (
    "In brackets: 95 % intervals of Wilson, which also hold for classes of a few rows; they grow as the rows become "
    "fewer. Rows count without their weights here."
)


def classes_section(record: LabelRecord) -> Section:
    """Return the section with a line for each class or label; it is empty for predicted numbers.

    Up to 20 stand in their order, and more by their F1, the worst first.
    """
    table = record.table
    if table.kind == "values" or not table.known.any():
        return Section("Classes")
    found = scores_by_class(table)
    several = table.kind == "labels"
    name, title = ("label", "Labels") if several else ("class", "Classes")
    ordered = found
    if len(found) > MOST_CLASSES:
        ordered = sorted(found, key=lambda one: -1.0 if one.f1 is None else one.f1.value)
    counts = ["found", "missed", "false alarms", "rightly not given"] if several else ["rows"]
    headers = [name, "precision", "recall", "F1", *counts]
    left = len(ordered) - _MOST_SHOWN
    said = f"The {name} with the lowest F1 comes first" if len(found) > MOST_CLASSES else ""
    said += f"; the {left:,} with the highest are left out" if left > 0 else ""
    return Section(
        title,
        f"{said}." if said else "",
        tables=[Table(headers, [_line(one, several) for one in ordered[:_MOST_SHOWN]])],
        note=_NOTE,
    )


def _line(one: ClassScores, several: bool) -> list[str]:
    counts = (one.hits, one.misses, one.false_alarms, one.others) if several else (one.rows,)
    return [one.name, *map(_share, (one.precision, one.recall, one.f1)), *(f"{count:,}" for count in counts)]


def _share(found: Estimate | None) -> str:
    return UNKNOWN if found is None else f"{found.value:.3f}  [{found.low:.3f}, {found.high:.3f}]"

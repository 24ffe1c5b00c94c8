"""Section of the figures of a labelled run: each metric with its interval, beside the baselines on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavra.core.units import counted
from lavra.reports.formatting import shown, title
from lavra.reports.labels.headline import figures_of
from lavra.reports.page import Section, Table

_NOTE = (
    "In brackets: 95 % confidence intervals by bootstrap over the rows. The baselines were measured on the same rows; "
    "“majority” sees no text and gives every row the frequencies of the training labels."
)


def figures_section(result: Mapping[str, Any]) -> Section:
    """Return the section of the figures of a labelled run.

    Args:
        result: Values of `result.json`.
    """
    own, baselines = figures_of(result), baselines_of(result)
    rows = [
        [title(name), shown(name, value), *(shown(name, figures.get(name)) for figures in baselines.values())]
        for name, value in own.items()
    ]
    return Section(
        "Results", measured_sentence(result), tables=[Table(["", "this model", *baselines], rows)], note=_NOTE
    )


def measured_sentence(result: Mapping[str, Any]) -> str:
    """Return a sentence about the rows on which a labelled run was measured.

    Args:
        result: Values of `result.json`.
    """
    rows, without = result.get("rows"), result.get("rows_without_label")
    if not isinstance(rows, int):
        return ""
    left = f"; {counted(without, 'row')} without a label left out" if isinstance(without, int) and without else ""
    return f"Measured on {counted(rows, 'validation row')}{left}."


def baselines_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metrics of each baseline by its name, without those that share no metric with the model.

    Args:
        result: Values of `result.json`.
    """
    given = result.get("baseline_scores") or result.get("baselines")
    if not isinstance(given, Mapping):
        return {}
    found = {str(name): figures_of(one) for name, one in given.items() if isinstance(one, Mapping)}
    return {name: figures for name, figures in found.items() if set(figures) & set(figures_of(result))}

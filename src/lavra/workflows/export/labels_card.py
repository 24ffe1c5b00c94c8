"""The parts of a model card that tell of labels: what is predicted, how well, and how to ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavra.core.units import counted
from lavra.reports.formatting import UNKNOWN, shown, title
from lavra.reports.labels.figures import baselines_of
from lavra.reports.labels.headline import figures_of

_MOST_LABELS = 50  # that are named

_SAID = {
    "classification": "It says which of {count} a text belongs to: {names}.",
    "multi-label": "It says which of {count} hold for a text, each from a probability of one half on: {names}.",
    "regression": "It predicts a number for a text: {names} (in the training data {mean:.4g} on average, with a "
    "standard deviation of {deviation:.4g}).",
}


def labels_section(task: str, facts: Mapping[str, Any]) -> str:
    """Return the section of a card about what is predicted; an empty string where nothing is known of labels.

    Args:
        task: The name of the task.
        facts: What the task knows of the data.
    """
    classes = facts.get("classes")
    if task not in _SAID or not classes:
        return ""
    names = ", ".join(f"`{name}`" for name in classes[:_MOST_LABELS])
    names += f" and {len(classes) - _MOST_LABELS} more" if len(classes) > _MOST_LABELS else ""
    count = counted(len(classes), "label" if task == "multi-label" else "class")
    numbers = {name: facts.get(name, 0.0) for name in ("mean", "deviation")}
    said = _SAID[task].format(count=count.replace("classs", "classes"), names=names, **numbers)
    read = facts.get("columns") or {}
    columns = [read.get("text"), read.get("second")]
    whole = read.get("template") or " and ".join(f"`{name}`" for name in columns if name)
    return f"\n{said} It was trained on the column {whole}.\n" if whole else f"\n{said}\n"


def metrics_section(result: Mapping[str, Any]) -> str:
    """Return a table of the metrics of labels, beside the baselines; an empty string where there are none.

    Args:
        result: The final figures of the run.
    """
    own, baselines = figures_of(result), baselines_of(result)
    if not own:
        return ""
    rows = result.get("rows")
    where = counted(rows, "validation row") if isinstance(rows, int) else "the validation data"
    lines = [f"\nOn {where} (with 95 % intervals over rows, where there are enough):\n\n"]
    lines.append("| measure | this model | " + "".join(f"{name} | " for name in baselines).rstrip() + "\n")
    lines.append("|---|---|" + "---|" * len(baselines) + "\n")
    for name, value in own.items():
        cells = [shown(name, value), *(shown(name, one.get(name)) for one in baselines.values())]
        lines.append(f"| {title(name)} | " + " | ".join(cell if cell != UNKNOWN else "" for cell in cells) + " |\n")
    return "".join(lines)


def used(task: str, facts: Mapping[str, Any], prompt: str) -> dict[str, str]:
    """Return how a pipeline is called, as the parts `given` and `options` of its arguments.

    Args:
        task: The name of the task.
        facts: What the task knows of the data.
        prompt: An example of a text.
    """
    second = (facts.get("columns") or {}).get("second")
    given = f'{{"text": "{prompt}", "text_pair": "…"}}' if second else f'"{prompt}"'
    return {"given": given, "options": ", top_k=None" if task in ("classification", "multi-label") else ""}

"""Numbers as words, the same on every page and in every table, and plain tables for the terminal and for pipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lavra.core.progress import printable
from lavra.core.units import show_count, show_duration, show_size


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return an aligned table, two spaces between columns.

    Args:
        headers: one title per column.
        rows: the cells, as text.
        left: how many of the first columns hold words, aligned left; the others hold numbers, aligned right.
    """
    lines = [[printable(cell) for cell in line] for line in (headers, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    lines.insert(1, ["─" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


UNKNOWN = "–"

_SHOW: dict[str, Callable[[float], str]] = {
    "seconds": show_duration,
    "budget_seconds": show_duration,
    "tokens_per_second": show_count,
    "peak_bytes": show_size,
    "bits_per_byte": "{:.4f}".format,
    "bits_per_word": "{:.3f}".format,
    "loss": "{:.4f}".format,
    "perplexity": "{:,.4g}".format,
    "parameters": "{:,.0f}".format,
    "tokens": "{:,.0f}".format,
    "step": "{:,.0f}".format,
    "skipped_steps": "{:,.0f}".format,
    "epochs": "{:.3g}".format,
}

TITLES = {
    "seconds": "time",
    "budget_seconds": "budget",
    "tokens_per_second": "tokens per second",
    "peak_bytes": "most memory held",
    "bits_per_byte": "bits per byte",
    "bits_per_word": "bits per word",
    "loss": "loss (nats per token)",
    "perplexity": "perplexity per token",
    "parameters": "parameters",
    "tokens": "tokens trained on",
    "step": "steps",
    "skipped_steps": "steps skipped",
}
"""Figures by the names that files give them, as a person reads them."""


def plain(figure: Any) -> Any:
    """Return the number of a figure that may be an estimate with an interval."""
    return figure.get("value") if isinstance(figure, Mapping) else figure


def shown(name: str, figure: Any) -> str:
    """Write a figure in its unit, with its interval where it has one; `–` where it is not known."""
    value = plain(figure)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNKNOWN
    show = _SHOW.get(name, "{:.6g}".format)
    low, high = (figure.get("low"), figure.get("high")) if isinstance(figure, Mapping) else (None, None)
    return show(value) + (f"  [{show(low)}, {show(high)}]" if low is not None and high is not None else "")


def setting(value: Any) -> str:
    """Write the value of a setting."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value)) or "none"
    return str(value)

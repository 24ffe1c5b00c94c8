"""Formatting of figures, the same on every page and in every table, and text tables for the terminal and for pipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lavra.core.progress import printable
from lavra.core.units import show_count, show_duration, show_size


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return an aligned table as text, with two spaces between columns.

    Args:
        headers: Title of each column.
        rows: Cells of each row, as text.
        left: Number of columns, from the first, that are aligned left; the others are aligned right.

    Examples:
        >>> print(text_table(["run", "loss"], [["a", "4.125"], ["b", "4.0"]]))
        run   loss
        ───  ─────
        a    4.125
        b      4.0
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
"""What is shown for a value that is not known."""

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
    "mean_squared_error": "{:.4g}".format,
    "mean_absolute_error": "{:.4g}".format,
    **dict.fromkeys(
        (
            *("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "samples_f1", "subset_accuracy", "f1"),
            *("matthews_correlation", "log_loss", "brier", "calibration_error", "pearson", "spearman"),
            *("quadratic_kappa", "precision", "recall", "exact_match"),
        ),
        "{:.3f}".format,
    ),
}

TITLES = {
    "seconds": "time",
    "budget_seconds": "budget",
    "tokens_per_second": "tokens per second",
    "peak_bytes": "peak memory",
    "bits_per_byte": "bits per byte",
    "bits_per_word": "bits per word",
    "loss": "loss (nats per token)",
    "perplexity": "perplexity per token",
    "parameters": "parameters",
    "tokens": "tokens trained on",
    "step": "steps",
    "skipped_steps": "skipped steps",
}
"""Titles of figures by their names in the files of a run."""


def title(name: str) -> str:
    """Return the title of a figure; one that has none in `TITLES` is called by its name.

    Examples:
        >>> title("seconds"), title("macro_f1"), title("log_loss")
        ('time', 'macro F1', 'log-loss')
    """
    return TITLES.get(name) or _SPELLED.get(name, name.replace("_f1", " F1").replace("_", " "))


_SPELLED = {"log_loss": "log-loss", "brier": "Brier score", "f1": "F1", "pearson": "Pearson", "spearman": "Spearman"}


def plain(figure: Any) -> Any:
    """Return the value of a figure, which may be a number or an estimate with an interval."""
    return figure.get("value") if isinstance(figure, Mapping) else figure


def shown(name: str, figure: Any) -> str:
    """Return a figure as text in its unit, with its interval if it has one, or `–` if it is not known.

    Args:
        name: Name of the figure, such as `bits_per_byte`.
        figure: Number, or mapping with `value`, `low` and `high`.

    Examples:
        >>> shown("loss", {"value": 4.1, "low": 4.0, "high": 4.2})
        '4.1000  [4.0000, 4.2000]'
        >>> shown("loss", None)
        '–'
    """
    value = plain(figure)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNKNOWN
    show = _SHOW.get(name, "{:.6g}".format)
    low, high = (figure.get("low"), figure.get("high")) if isinstance(figure, Mapping) else (None, None)
    return show(value) + (f"  [{show(low)}, {show(high)}]" if low is not None and high is not None else "")


def setting(value: Any) -> str:
    """Return the value of a setting as text.

    Examples:
        >>> setting(True), setting(0.0030000001), setting(["a", "b"]), setting(None), setting({"a": 1, "b": None})
        ('yes', '0.003', 'a, b', '–', 'a 1, b –')
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(one, Mapping) for one in value) else ", ").join(map(setting, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting(one)}" for name, one in value.items()) or "none"
    return str(value)

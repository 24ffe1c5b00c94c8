"""A comparison of runs as a page: the tables of the terminal, and the curves laid over each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavra.reports.bar_plot import Bar, bar_plot
from lavra.reports.comparison_text import CAUTION, figure_rows, sentence, setting_groups, setting_rows, tested
from lavra.reports.line_plot import Axis, Series, line_plot
from lavra.reports.page import Section, Table, render_page, write_html
from lavra.reports.run_comparison import RunComparison
from lavra.reports.run_curves import SPEED, TIME, TOKENS, points, step_seconds, timed, tokens_of
from lavra.reports.wording import plain

_BITS = Axis("bits per byte", "{:.4g}".format)


def write_comparison(comparison: RunComparison, out: Path) -> None:
    """Write the page of a comparison.

    Raises:
        InputError: if the file cannot be written.
    """
    write_html(out, comparison_page(comparison))


def comparison_page(comparison: RunComparison) -> str:
    """Return the page as HTML, self-contained as that of a run."""
    baseline, headers = comparison.names[0], ["", *comparison.names]
    settings = [
        Section(title.capitalize(), tables=[Table(headers, setting_rows(rows), words=len(headers))])
        for title, rows in setting_groups(comparison)
    ]
    verdicts = [sentence(verdict, baseline) for verdict in comparison.verdicts]
    outcome = Section("Outcome", tables=[Table(headers, figure_rows(comparison))], pictures=[_bars(comparison)])
    test = Section(
        "Is the difference more than chance?",
        tables=[Table(["bits per byte"], [[line] for line in verdicts])],
        note=f"{CAUTION[0].upper()}{CAUTION[1:]}." if tested(comparison) else "",
    )
    missing = [
        f"{name}: missing: {line}"
        for name, run in zip(comparison.names, comparison.runs, strict=True)
        for line in run.missing
    ]
    return render_page(
        " and ".join(comparison.names) if len(comparison.names) == 2 else f"{len(comparison.names)} runs",
        f"Compared with {baseline}, the baseline.",
        [*comparison.notes, *missing],
        [outcome, test, _curves(comparison), *settings],
    )


def _bars(comparison: RunComparison) -> str:
    bars = []
    for number, (name, figure) in enumerate(
        zip(comparison.names, comparison.figures.get("bits_per_byte", ()), strict=False)
    ):
        if plain(figure) is not None:
            ends = (figure.get("low"), figure.get("high")) if isinstance(figure, dict) else (None, None)
            bars.append(Bar(name, float(plain(figure)), *ends, strong=number == 0))
    return bar_plot("Bits per byte of the held-out text (less is better)", bars)


def _curves(comparison: RunComparison) -> Section:
    clocks = [timed(step_seconds(run.training)) for run in comparison.runs]
    by_tokens: list[Any] = [tokens_of] * len(clocks)

    def lines(kind: str, figure: str, places: list[Any]) -> list[Series]:
        return [
            Series(name, points(getattr(run, kind), figure, place), dots=kind == "validation")
            for name, run, place in zip(comparison.names, comparison.runs, places, strict=True)
        ]

    plots = [
        line_plot("Validation by tokens", lines("validation", "bits_per_byte", by_tokens), TOKENS, _BITS),
        line_plot("Validation by time", lines("validation", "bits_per_byte", clocks), TIME, _BITS),
        line_plot("Training by tokens", lines("training", "bits_per_byte", by_tokens), TOKENS, _BITS),
        line_plot("Speed", lines("training", "tokens_per_second", by_tokens), TOKENS, SPEED),
    ]
    note = (
        "Validations are on a sample of the held-out text, each run's own; time is reckoned from the logged speeds and "
        "leaves out validations and checkpoints."
    )
    return Section("Curves", pictures=[plot for plot in plots if plot], note=note)

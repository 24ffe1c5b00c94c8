"""Comparison of runs as text for the terminal, and as a page with the curves of all runs in one plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lavra.core.units import counted, show_duration
from lavra.evaluation.labels.metrics import SMALLER_IS_BETTER
from lavra.reports.formatting import UNKNOWN, plain, setting, shown, text_table, title
from lavra.reports.labels.comparison import LabelComparison
from lavra.reports.page import Section, Table, render_page, write_html
from lavra.reports.plots import Axis, Bar, Series, bar_plot, line_plot
from lavra.reports.run_comparison import LEVEL, RunComparison, Setting, Verdict
from lavra.reports.run_curves import LOSS, SPEED, TIME, TOKENS, points, step_seconds, timed, tokens_of


def show_comparison(comparison: RunComparison) -> str:
    """Return a comparison as text, in sections: what differs, the results, and whether differences are significant.

    Args:
        comparison: Comparison of two runs or more.
    """
    headers = ["", *comparison.names]
    sections = []
    for heading, settings in setting_groups(comparison):
        sections.append(f"{heading}\n" + _indented(text_table(headers, setting_rows(settings), left=len(headers))))
    if not sections:
        sections.append("the requests, plans and data are the same")
    sections.append("results\n" + _indented(text_table(headers, figure_rows(comparison))))
    verdicts = [f"  {sentence(verdict, comparison.names[0])}" for verdict in comparison.verdicts]
    caution = [f"  ({caution_of(comparison)})"] if tested(comparison) else []
    sections.append(f"{title(comparison.metric)}\n" + "\n".join([*verdicts, *caution]))
    sections += [f"note: {note}" for note in comparison.notes]
    return "\n\n".join(sections)


CAUTION = (
    "difference with its 95 % confidence interval by bootstrap over documents; p-value of the paired randomisation "
    "test over documents, with Holm's correction for the number of runs. The test is about these trained models on "
    "documents of this kind: training with another seed would change the results, too"
)
"""Explanation of what the test states and what it does not."""


def caution_of(comparison: RunComparison) -> str:
    """Return what the test of a comparison states, by what was compared: documents, or rows with labels."""
    return CAUTION if comparison.metric == "bits_per_byte" else CAUTION.replace("documents", "rows")


def setting_groups(comparison: RunComparison) -> Iterator[tuple[str, Sequence[Setting]]]:
    """Yield the title and the settings of each group of settings in which the runs differ."""
    groups = (
        ("requests that differ (–: the default)", comparison.asked),
        ("plans that differ", comparison.decided),
        ("data and machines that differ", comparison.surroundings),
    )
    yield from ((heading, settings) for heading, settings in groups if settings)


def setting_rows(settings: Sequence[Setting]) -> list[list[str]]:
    """Return a table row for each setting: its name and its value in each run, with `–` for the default."""
    shows = {"budget": lambda value: UNKNOWN if value is None else show_duration(value)}
    return [[one.name, *map(shows.get(one.name, setting), one.values)] for one in settings]


def figure_rows(comparison: RunComparison) -> list[list[str]]:
    """Return a table row for each figure: its title and its value in each run, with its interval if there is one."""
    rows = [["status", *(run.status for run in comparison.runs)]]
    return rows + [[title(name), *(shown(name, one) for one in values)] for name, values in comparison.figures.items()]


def tested(comparison: RunComparison) -> bool:
    """Return whether any run could be tested against the baseline."""
    return any(verdict.p_holm is not None for verdict in comparison.verdicts)


def sentence(verdict: Verdict, baseline: str) -> str:
    """Return the comparison of one run with the baseline, in words.

    Args:
        verdict: Comparison of the run with the baseline.
        baseline: Name of the baseline.
    """
    found = verdict.comparison
    if found is None:
        return f"{verdict.run} against {baseline}: not comparable: {verdict.reason}"
    if isinstance(found, LabelComparison):
        return f"{verdict.run} against {baseline}: {_of_labels(verdict, found)}"
    difference = found.difference
    interval = "" if difference.low is None else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    measured = (
        f"{verdict.run} against {baseline}: {difference.value:+.4f}{interval} on {counted(found.documents, 'document')}"
    )
    if verdict.more_than_chance is None:
        return f"{measured}; {verdict.reason}"
    better = "better" if difference.value < 0 else "worse"
    told = f"{better}, more than chance" if verdict.more_than_chance else "no more than chance would bring"
    sign = "<" if verdict.more_than_chance else "≥"
    return (
        f"{measured}, better on {found.better:,} and worse on {found.worse:,} of them; {told} "
        f"(p = {verdict.p_holm:.2g} {sign} {LEVEL})"
    )


def _of_labels(verdict: Verdict, found: LabelComparison) -> str:
    """Return the comparison of the labels of two runs, in words."""
    difference, paired = found.difference, found.paired
    interval = "" if difference.low is None else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    note = f" ({found.note})" if found.note else ""
    measured = f"{difference.value:+.4f}{interval} on {counted(paired.rows, 'row')}{note}"
    if verdict.more_than_chance is None:
        return f"{measured}; {verdict.reason}"
    told = "no more than chance would bring"
    if verdict.more_than_chance:
        told = f"{'better' if paired.gain > 0 else 'worse'}, more than chance"
    sign = "<" if verdict.more_than_chance else "≥"
    return (
        f"{measured}, better on {paired.wins:,} and worse on {paired.losses:,} of them; {told} "
        f"(p = {verdict.p_holm:.2g} {sign} {LEVEL})"
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


_BITS = Axis("bits per byte", "{:.4g}".format)


def write_comparison(comparison: RunComparison, out: Path) -> None:
    """Write a comparison as an HTML page.

    Args:
        comparison: Comparison of two runs or more.
        out: File to write.

    Raises:
        InputError: if the file cannot be written.
    """
    write_html(out, comparison_page(comparison))


def comparison_page(comparison: RunComparison) -> str:
    """Return a comparison as a self-contained HTML page."""
    baseline, headers = comparison.names[0], ["", *comparison.names]
    settings = [
        Section(heading.capitalize(), tables=[Table(headers, setting_rows(rows), words=len(headers))])
        for heading, rows in setting_groups(comparison)
    ]
    verdicts, caution = [sentence(one, baseline) for one in comparison.verdicts], caution_of(comparison)
    outcome = Section("Results", tables=[Table(headers, figure_rows(comparison))], pictures=[_bars(comparison)])
    test = Section(
        "Is the difference more than chance?",
        tables=[Table([title(comparison.metric)], [[line] for line in verdicts])],
        note=f"{caution[0].upper()}{caution[1:]}." if tested(comparison) else "",
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
        zip(comparison.names, comparison.figures.get(comparison.metric, ()), strict=False)
    ):
        if plain(figure) is not None:
            ends = (figure.get("low"), figure.get("high")) if isinstance(figure, dict) else (None, None)
            bars.append(Bar(name, float(plain(figure)), *ends, strong=number == 0))
    if comparison.metric == "bits_per_byte":
        return bar_plot("Bits per byte on the validation text (lower is better)", bars)
    better = "lower" if comparison.metric in SMALLER_IS_BETTER else "higher"
    name = title(comparison.metric)
    return bar_plot(f"{name[0].upper()}{name[1:]} on the validation rows ({better} is better)", bars)


def _curves(comparison: RunComparison) -> Section:
    clocks = [timed(step_seconds(run.training)) for run in comparison.runs]
    by_tokens: list[Any] = [tokens_of] * len(clocks)

    def lines(kind: str, figure: str, places: list[Any]) -> list[Series]:
        return [
            Series(name, points(getattr(run, kind), figure, place), dots=kind == "validation")
            for name, run, place in zip(comparison.names, comparison.runs, places, strict=True)
        ]

    if comparison.metric != "bits_per_byte":
        plots = [
            line_plot("Validation by tokens", lines("validation", "loss", by_tokens), TOKENS, LOSS),
            line_plot("Validation by time", lines("validation", "loss", clocks), TIME, LOSS),
            line_plot("Training by tokens", lines("training", "loss", by_tokens), TOKENS, LOSS),
            line_plot("Speed", lines("training", "tokens_per_second", by_tokens), TOKENS, SPEED),
        ]
        return Section("Curves", pictures=[plot for plot in plots if plot])
    plots = [
        line_plot("Validation by tokens", lines("validation", "bits_per_byte", by_tokens), TOKENS, _BITS),
        line_plot("Validation by time", lines("validation", "bits_per_byte", clocks), TIME, _BITS),
        line_plot("Training by tokens", lines("training", "bits_per_byte", by_tokens), TOKENS, _BITS),
        line_plot("Speed", lines("training", "tokens_per_second", by_tokens), TOKENS, SPEED),
    ]
    note = (
        "Validations use a sample of the validation text, which may differ between runs; time is computed from the "
        "logged speeds, without validations and checkpoints."
    )
    return Section("Curves", pictures=[plot for plot in plots if plot], note=note)

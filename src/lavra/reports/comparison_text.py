"""A comparison of runs for the terminal, and the sentences that its page shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lavra.core.units import show_duration
from lavra.reports.run_comparison import LEVEL, RunComparison, Setting, Verdict
from lavra.reports.text_table import text_table
from lavra.reports.wording import TITLES, UNKNOWN, counted, setting, shown


def show_comparison(comparison: RunComparison) -> str:
    """Return the comparison in sections: what differs, what came of it, whether it is more than chance."""
    headers = ["", *comparison.names]
    sections = []
    for title, settings in setting_groups(comparison):
        sections.append(f"{title}\n" + _indented(text_table(headers, setting_rows(settings), left=len(headers))))
    if not sections:
        sections.append("the requests, plans and data are the same")
    sections.append("outcome\n" + _indented(text_table(headers, figure_rows(comparison))))
    verdicts = [f"  {sentence(verdict, comparison.names[0])}" for verdict in comparison.verdicts]
    sections.append("bits per byte\n" + "\n".join([*verdicts, *([f"  ({CAUTION})"] if tested(comparison) else [])]))
    sections += [f"note: {note}" for note in comparison.notes]
    return "\n\n".join(sections)


CAUTION = (
    "difference with its 95 % interval by bootstrap over documents; p by the paired randomisation test over documents, "
    "Holm-corrected for the runs compared. It speaks of these trained models on such documents: another seed would "
    "move a run, too"
)
"""What the test says and what it does not."""


def setting_groups(comparison: RunComparison) -> Iterator[tuple[str, Sequence[Setting]]]:
    """Yield title and settings of each group in which the runs differ."""
    groups = (
        ("asked differently (–: the default)", comparison.asked),
        ("decided differently", comparison.decided),
        ("data and machine that differ", comparison.surroundings),
    )
    yield from ((title, settings) for title, settings in groups if settings)


def setting_rows(settings: Sequence[Setting]) -> list[list[str]]:
    """Return a row for each setting: its name, and its value in each run; `–` is the default, or not known."""
    shows = {"budget": lambda value: UNKNOWN if value is None else show_duration(value)}
    return [[one.name, *map(shows.get(one.name, setting), one.values)] for one in settings]


def figure_rows(comparison: RunComparison) -> list[list[str]]:
    """Return a row for each figure: its title, and its value in each run, with the interval where there is one."""
    rows = [["status", *(run.status for run in comparison.runs)]]
    return rows + [[TITLES[name], *(shown(name, one) for one in values)] for name, values in comparison.figures.items()]


def tested(comparison: RunComparison) -> bool:
    """Say whether any run could be tested against the baseline."""
    return any(verdict.p_holm is not None for verdict in comparison.verdicts)


def sentence(verdict: Verdict, baseline: str) -> str:
    """Return one run against the baseline in words."""
    found = verdict.comparison
    if found is None:
        return f"{verdict.run} against {baseline}: not comparable: {verdict.reason}"
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


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())

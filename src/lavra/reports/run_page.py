"""The page of a run: `report.html`, one file that says what was done and what came of it."""

from __future__ import annotations

from pathlib import Path

from lavra.core.run_folder import RunFolder
from lavra.reports.page import render_page, write_html
from lavra.reports.run_curves import curves_section
from lavra.reports.run_evidence import checks_section, events_section, ledger_section, notable, samples_section
from lavra.reports.run_files import RunFiles, read_run
from lavra.reports.run_overview import headline, outcome_section, predicted_section, what_section

PAGE = "report.html"


def write_page(run: RunFolder, out: Path | None = None) -> RunFiles:
    """Write the page of a run and return what it was made of.

    Args:
        run: in any state.
        out: the file; `report.html` in the run's folder by default.

    Raises:
        InputError: if the file cannot be written.
    """
    record = read_run(run)
    write_html(out or run.path / PAGE, run_page(record))
    return record


def run_page(run: RunFiles) -> str:
    """Return the page as HTML: no script, nothing fetched, every text of others escaped."""
    sections = [
        what_section(run),
        outcome_section(run),
        curves_section(run),
        predicted_section(run),
        checks_section(run),
        ledger_section(run),
        samples_section(run),
        events_section(run),
    ]
    missing = [f"missing: {line}" for line in run.missing]
    return render_page(run.name, headline(run), [*notable(run), *missing], sections)

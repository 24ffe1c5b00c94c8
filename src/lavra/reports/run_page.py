"""The page of a run: `report.html`, a single file that documents the run and its results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lavra.core.disk.run_folder import RunFolder
from lavra.core.progress import log
from lavra.reports.labels.sections import label_sections
from lavra.reports.page import render_page, write_html
from lavra.reports.run_curves import curves_section
from lavra.reports.run_evidence import checks_section, data_usage_section, events_section, notable, samples_section
from lavra.reports.run_files import RunFiles, read_run
from lavra.reports.run_overview import headline, outcome_section, predicted_section, what_section
from lavra.reports.run_stability import stability_section

PAGE = "report.html"
"""Name of the file in the folder of a run."""


def write_page(run: RunFolder, out: Path | None = None) -> RunFiles:
    """Write the page of a run, and return the record that it shows.

    Args:
        run: Run folder; the run may be in progress or interrupted.
        out: File to write; by default `report.html` in the folder of the run.

    Raises:
        InputError: if the file cannot be written.
    """
    record = read_run(run)
    write_html(out or run.path / PAGE, run_page(record))
    return record


def run_page(run: RunFiles) -> str:
    """Return the page of a run as HTML, without scripts and external resources, and with all texts escaped."""
    sections = [
        outcome_section(run),
        *label_sections(run),
        samples_section(run),
        curves_section(run),
        stability_section(run),
        predicted_section(run),
        checks_section(run),
        data_usage_section(run),
        what_section(run),
        events_section(run),
    ]
    missing = [f"missing: {line}" for line in run.missing]
    return render_page(run.name, headline(run), [*notable(run), *missing], sections)


# Training writes the page at its end, also when it ends by an error.


@contextmanager
def page_at_the_end(run: RunFolder) -> Iterator[None]:
    """Write the page of a run when the block ends, also when it ends by an error.

    If the page cannot be written, there is only a warning, since it can be made again at any time.

    Args:
        run: Run folder.
    """
    try:
        yield
    finally:
        _write(run)


def _write(run: RunFolder) -> None:
    try:
        write_page(run)
    except Exception as error:
        text = f"warning: the report could not be written: {type(error).__name__}: {error}"
        log(f"{text}; `lavra report {run.path}` tries again")
        try:
            run.log(text)
        except OSError:
            return  # the disk is full, which was reported already

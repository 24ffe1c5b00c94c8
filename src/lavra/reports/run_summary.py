"""One run in the twenty lines that matter."""

from __future__ import annotations

from lavra.core.disk.run_folder import RunFolder
from lavra.core.program import command, last_lines
from lavra.reports.run_evidence import notable
from lavra.reports.run_files import RunFiles, read_run
from lavra.reports.run_overview import headline, outcome_section, what_section

_WIDTH = 110
_MOST_NOTABLE = 3


def summary(folder: RunFolder) -> str:
    """Return what a person wants to know of a run first: what it is, what came of it, what happened, what next."""
    run = read_run(folder)
    facts = [*what_section(run).facts, *outcome_section(run).facts]
    wide = max((len(name) for name, _ in facts), default=0)
    lines = [f"{run.path}: {headline(run)}", ""]
    lines += [_cut(f"  {name:<{wide}}  {value}") for name, value in facts]
    happened = [*notable(run)[:_MOST_NOTABLE], *run.missing[:_MOST_NOTABLE]]
    lines += ["", *(_cut(f"  {one}") for one in happened)] if happened else []
    return "\n".join([*lines, "", *next_lines(run), f"all of it: {command('runs', 'show', run.path, '--all')}"])


def next_lines(run: RunFiles) -> list[str]:
    """Return where the result lies, and the commands that a person wants next."""
    if run.status == "running":
        return [f"it is being trained; the page so far: {command('report', run.path)}"]
    if not run.result:
        return [f"go on with it: {command('resume', run.path)}"]
    page = run.path / "report.html"
    return last_lines(
        [
            ("page", str(page) if page.exists() else command("report", run.path)),
            ("try it", command("generate", run.path, "--prompt", "…")),
            ("give it", command("export", run.path, "--out", f"{run.path.name}-export")),
        ]
    )


def _cut(line: str) -> str:
    line = " ".join(line.splitlines())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"

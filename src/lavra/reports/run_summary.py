"""Summary of a run in about twenty lines."""

from __future__ import annotations

import re

from lavra.core.disk.run_folder import RunFolder
from lavra.core.messages.catalogue import told
from lavra.core.program import command, last_lines
from lavra.reports.formatting import shown, title
from lavra.reports.labels.headline import figures_of, headline_of
from lavra.reports.run_evidence import notable
from lavra.reports.run_files import RunFiles, read_run
from lavra.reports.run_overview import headline, is_linear, outcome_section, what_section

_WIDTH = 110
_MOST_NOTABLE = 3
_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def summary(folder: RunFolder) -> str:
    """Return a summary of a run as text: data, model and machine; results; notable events; and what to do next.

    The words are those of the user's language, looked up before long lines are cut.

    Args:
        folder: Run folder.
    """
    run = read_run(folder)
    own = [(title(name), shown(name, value)) for name, value in figures_of(run.result).items()]
    facts = [*what_section(run).facts, *own, *outcome_section(run).facts]
    wide = max((len(name) for name, _ in facts), default=0)
    lines = [f"{run.path}: {told(headline(run))}", ""]
    lines += [f"  {name:<{wide}}  {' '.join(value.split())}" for name, value in facts]
    happened = [*notable(run)[:_MOST_NOTABLE], *run.missing[:_MOST_NOTABLE]]
    lines += ["", *(f"  {_event(' '.join(one.split()))}" for one in happened)] if happened else []
    short = [_cut(line) for line in told("\n".join(lines)).split("\n")]
    full = told(f"in full: {command('runs', 'show', run.path, '--all')}")
    return "\n".join([*short, "", *next_lines(run), full])


def next_lines(run: RunFiles) -> list[str]:
    """Return the place of the results and the commands that are most likely to be useful next, a line each.

    Args:
        run: Record of the run.
    """
    if run.status == "running":
        return [f"the run is in progress; report so far: {command('report', run.path)}"]
    if not run.result:
        return [f"continue: {command('resume', run.path)}"]
    page = run.path / "report.html"
    return last_lines(
        [
            ("report", str(page) if page.exists() else command("report", run.path)),
            *_uses(run),
            *([] if is_linear(run) else [("export", command("export", run.path, "--out", f"{run.path.name}-export"))]),
        ]
    )


def _uses(run: RunFiles) -> list[tuple[str, str]]:
    """Return the commands that use the model of a finished run."""
    if run.plan.get("task") in ("mlm", "electra"):  # an encoder writes no text: it is there to be fine-tuned
        return [("fine-tune", command("train", "LABELS", "--from", run.path))]
    if headline_of(run.result) is None:
        return [("generate", command("generate", run.path, "--prompt", "…"))]
    evaluate = ("evaluate", command("evaluate", run.path, "--data", "FILE"))
    # Only models of whole texts are used by `lavra classify`; their runs have a table of predictions.
    return [("classify", command("classify", run.path, "--text", "…")), evaluate] if run.labels else [evaluate]


def _event(text: str) -> str:
    """Return an event, or what is wrong with a file, in the language of the user; the date or the file stays."""
    date = _DATE.match(text)
    if date:
        return date[0] + told(text[date.end() :])
    name, colon, what = text.partition(": ")
    return told(text) if told(text) != text else f"{name}{colon}{told(what)}"


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"

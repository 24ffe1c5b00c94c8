"""`lavra runs`: the lab book."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lavra.cli.options import parse, print_json
from lavra.core.progress import say
from lavra.core.run_folder import RunFolder, list_runs
from lavra.reports.run_table import run_line, run_record, show_run, show_runs


@dataclass
class _List:
    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[ROOT]")] = Path("runs")
    """The folder that holds the runs, at its top or up to two levels down."""


@dataclass
class _Show:
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of the run."""


def main(arguments: list[str]) -> int:
    """Run `lavra runs …`."""
    return _show(arguments[1:]) if arguments[:1] == ["show"] else _list(arguments)


def _list(arguments: list[str]) -> int:
    options, as_json = parse(
        _List,
        arguments,
        prog="lavra runs",
        description="List the runs in a folder: data, size, speed, and validation perplexity and bits per byte.\n"
        "`lavra runs show RUN` shows one run in full.",
        examples=["lavra runs", "lavra runs experiments/ --json", "lavra runs show runs/first"],
    )
    runs = list_runs(options.root)
    if as_json:
        print_json({"runs": [run_line(run) for run in runs]})
    elif runs:
        print(show_runs(runs))
    else:
        say(f"no runs in {options.root}")
    return 0


def _show(arguments: list[str]) -> int:
    options, as_json = parse(
        _Show,
        arguments,
        prog="lavra runs show",
        description="Show one run in full: its request, plan, result, the ledger of each source, and the last metrics.",
        examples=["lavra runs show runs/first", "lavra runs show runs/first --json"],
    )
    run = RunFolder.open(options.run)
    if as_json:
        print_json(run_record(run))
    else:
        print(show_run(run))
    return 0

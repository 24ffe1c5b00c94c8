"""`lavra runs`: the lab book."""

from __future__ import annotations

from lavra.cli.options import parse, print_json, show
from lavra.config.runs import RemoveRunsConfig, RunsConfig, ShowRunConfig
from lavra.core.disk.run_folder import RunFolder, check_removable, list_runs, remove_run
from lavra.core.disk.sweep_folder import SweepFolder, is_sweep
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.reports.run_table import run_line, run_record, show_run, show_runs


def main(arguments: list[str]) -> int:
    """Run `lavra runs …`."""
    commands = {"show": _show, "rm": _remove}
    return commands[arguments[0]](arguments[1:]) if arguments[:1] and arguments[0] in commands else _list(arguments)


def _list(arguments: list[str]) -> int:
    options, as_json = parse(
        RunsConfig,
        arguments,
        prog="lavra runs",
        description="List the runs in a folder: data, size, speed, and validation perplexity and bits per byte.\n"
        "`lavra runs show RUN` shows one run, `lavra runs rm RUN` removes runs.",
        examples=["lavra runs", "lavra runs experiments/ --json", "lavra runs show runs/first"],
    )
    runs = list_runs(options.root)
    if as_json:
        print_json({"runs": [run_line(run) for run in runs]})
    elif runs:
        show(show_runs(runs))
    else:
        log(f"no runs in {options.root}")
    return 0


def _show(arguments: list[str]) -> int:
    options, as_json = parse(
        ShowRunConfig,
        arguments,
        prog="lavra runs show",
        description="Show one run: what was trained on what, what came of it, and what to do next; --all shows every "
        "setting and figure of its request, plan, result, data usage and last metrics.",
        examples=["lavra runs show runs/first", "lavra runs show runs/first --all"],
    )
    run = RunFolder.open(options.run)
    if as_json:
        print_json(run_record(run))
    elif is_sweep(run) and not options.all:
        from lavra.reports.sweeps.summary import summary as sweep_summary

        show(sweep_summary(SweepFolder(run)))
    else:
        from lavra.reports.run_summary import summary  # imports numpy

        print(show_run(run) if options.all else summary(run))  # both are in the language of the user
    return 0


def _remove(arguments: list[str]) -> int:
    options, as_json = parse(
        RemoveRunsConfig,
        arguments,
        prog="lavra runs rm",
        description="Remove runs: without --force only those that have no checkpoint yet. A folder with files in it "
        "that lavra did not write is never removed.",
        examples=["lavra runs rm runs/mytext-002 runs/mytext-003", "lavra runs rm runs/first --force"],
    )
    runs = [RunFolder.open(path) for path in options.runs]
    for run in runs:
        check_removable(run.path)
        trained = any(run.checkpoints.glob("step-*")) or (run.path / "model").exists() or is_sweep(run)
        if trained and not options.force:
            raise InputError(f"{run.path} has a trained model", "add --force to remove it; nothing was removed")
    for run in runs:
        remove_run(run.path)
        log(f"removed {run.path}")
    if as_json:
        print_json({"removed": [str(run.path) for run in runs]})
    return 0

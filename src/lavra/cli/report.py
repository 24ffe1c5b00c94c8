"""`lavra report`: the page of a run."""

from __future__ import annotations

from lavra.cli.options import new_file, parse, print_json
from lavra.config.runs import ReportConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.sweep_folder import SweepFolder, is_sweep
from lavra.core.progress import log


def main(arguments: list[str]) -> int:
    """Run `lavra report …`."""
    options, as_json = parse(
        ReportConfig,
        arguments,
        prog="lavra report",
        description="Write the page of a run as one HTML file that needs no network: what was trained on what, the "
        "outcome with intervals, curves, predicted against actual, checks, data usage, samples and events.\n"
        "Training writes it at its end; this command writes it again, at any time.",
        examples=["lavra report runs/book", "lavra report runs/book --out book.html --json"],
    )
    from lavra.reports.run_page import PAGE, write_page
    from lavra.reports.run_summary import next_lines

    run = RunFolder.open(options.run)
    out = run.path / PAGE if options.out is None else new_file(options.out, options.force)
    if is_sweep(run):
        from lavra.reports.sweeps.page import write_sweep_page

        status = write_sweep_page(SweepFolder(run), out).status
        if as_json:
            print_json({"run": str(run.path), "report": str(out), "status": status})
        else:
            print(out)
        return 0
    record = write_page(run, out)
    if as_json:
        print_json({"run": str(run.path), "report": str(out), "status": record.status, "missing": record.missing})
    else:
        print(out)
        lines = next_lines(record)
        for line in lines[1:] if record.result else lines:  # the first line of a finished run names the page itself
            log(line)
    return 0

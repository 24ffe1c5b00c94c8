"""`lavra compare`: runs side by side."""

from __future__ import annotations

from lavra.cli.options import new_file, parse, print_json, say_last, show
from lavra.config.runs import CompareConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.sweep_folder import refuse_sweep
from lavra.core.program import command


def main(arguments: list[str]) -> int:
    """Run `lavra compare …`."""
    options, as_json = parse(
        CompareConfig,
        arguments,
        prog="lavra compare",
        description="Set runs side by side: the settings that differ, the outcome with intervals, and whether the "
        "difference of bits per byte from the first run is more than chance, by a paired test over validation "
        "documents; of runs that predict labels, the difference of their first metric, over the rows that both "
        "predicted.",
        examples=["lavra compare runs/first runs/second", "lavra compare runs/* --html comparison.html"],
    )
    from lavra.reports.comparison import show_comparison, write_comparison
    from lavra.reports.run_comparison import compare_runs

    out = None if options.html is None else new_file(options.html, options.force)
    runs = [RunFolder.open(path) for path in options.runs]
    for run in runs:
        refuse_sweep(run)
    comparison = compare_runs(runs)
    if out is not None:
        write_comparison(comparison, out)
    if as_json:
        print_json(comparison.to_json() | ({} if out is None else {"page": str(out)}))
    else:
        show(show_comparison(comparison))
        page = command("compare", *options.runs, "--html", "comparison.html") if out is None else str(out)
        say_last(("report", page), ("run", command("runs", "show", options.runs[-1])))
    return 0

"""`lavra plan`: what a training will take and reach, before anything is spent."""

from __future__ import annotations

from pathlib import Path

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.planning import PlanRequest
from lavra.core.program import command
from lavra.core.progress import Waiting


def main(arguments: list[str]) -> int:
    """Run `lavra plan …`."""
    request, as_json = parse(
        PlanRequest,
        arguments,
        prog="lavra plan",
        description="Say what a training will take in memory, time, energy and money, and what loss it will reach, "
        "before anything is spent. It is the run that `lavra train` makes of the same options.",
        examples=[
            "lavra plan mytext/ --budget 1h",
            "lavra plan mytext/ --budget 1h --pilot 5%",
            "lavra plan mytext/ --from runs/mine --budget 20m --pilot 10%",
            "lavra plan reviews.csv --from minilm/ --budget 10m",
            "lavra plan --model opt-125m --tokens 330M --hardware a100-40gb --efficiency 0.4 --price-per-hour 1.10",
            "lavra plan --calibrate runs/",
        ],
    )
    if request.calibrate is not None:
        from lavra.planning.scaling_law.past_runs import calibrate_from

        report = calibrate_from(request.calibrate)
        if as_json:
            print_json(report)
        else:
            print(report["file"])
            say_last(("all later plans use it, such as", command("plan", "TEXT", "--budget", "20m")))
        return 0
    with Waiting("starting"):
        from lavra.planning.forecast import PlanReport
        from lavra.reports.forecast import show_plan_report
        from lavra.workflows.planning.plan import plan

    plan_report = plan(request)
    if as_json:
        print_json(plan_report.to_json())
    else:
        show(show_plan_report(plan_report) if isinstance(plan_report, PlanReport) else str(plan_report))
        say_last(("result", "printed above, and not kept; --json prints it for a file"), _next(request))
    return 0


def _next(request: PlanRequest) -> tuple[str, str]:
    """Return the command that a person wants next: the training that was planned, where it can be done here."""
    if not request.data:
        return "plan", command("plan", "TEXT", "--budget", "20m")
    if request.hardware != "this":
        return "plan here", command("plan", *request.data, *_length(request))
    words = ["train", *request.data, *_length(request)]
    if request.base is not None:
        words += ["--from", request.base]
    elif request.model.preset != "auto" and not Path(request.model.preset).exists():
        words += ["--model", request.model.preset]
    if request.model.context is not None:
        words += ["--context", str(request.model.context)]
    return "train", command(*words)


def _length(request: PlanRequest) -> list[str]:
    """Return the flag that says how long to train, and its value; ten minutes, the default, where none was given."""
    names = ("tokens", "epochs", "steps")
    given = [(name, getattr(request, name)) for name in names if getattr(request, name) is not None]
    if given:
        return [f"--{given[0][0]}", f"{given[0][1]:g}" if isinstance(given[0][1], float) else str(given[0][1])]
    return ["--budget", "10m" if request.budget is None else f"{request.budget:g}s"]

"""`lavra resume`: go on with an interrupted run."""

from __future__ import annotations

from lavra.cli.options import log_next, parse, print_json
from lavra.config.runs import ResumeConfig


def main(arguments: list[str]) -> int:
    """Run `lavra resume …`."""
    options, as_json = parse(
        ResumeConfig,
        arguments,
        prog="lavra resume",
        description="Continue an interrupted run from its last checkpoint, exactly where it stopped, or train a "
        "finished one for longer.",
        examples=["lavra resume runs/book", "lavra resume runs/book --budget 20m"],
    )
    from lavra.workflows.train import resume

    run = resume(options.run, **{name: value for name, value in vars(options).items() if name != "run"})
    if as_json:
        print_json({"run": str(run.path), **run.result})
    else:
        print(run.path)
        log_next(run.path)
    return 0

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
        description="Continue an interrupted run from its last checkpoint, exactly where it stopped.",
        examples=["lavra resume runs/book"],
    )
    from lavra.workflows.train import resume

    run = resume(options.run, micro_batch_size=options.micro_batch_size)
    if as_json:
        print_json({"run": str(run.path), **run.result})
    else:
        print(run.path)
        log_next(run.path)
    return 0

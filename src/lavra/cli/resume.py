"""`lavra resume`: go on with an interrupted run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from lavra.cli.options import log_next, parse, print_json


@dataclass
class _Resume:
    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The folder of the run."""
    micro_batch_size: int | None = None
    """Sequences of a micro-batch, where memory is less than before; the tokens of an update and the order of the data
    stay the same."""


def main(arguments: list[str]) -> int:
    """Run `lavra resume …`."""
    options, as_json = parse(
        _Resume,
        arguments,
        prog="lavra resume",
        description="Continue an interrupted run from its last checkpoint, exactly where it stopped.",
        examples=["lavra resume runs/book"],
    )
    from lavra.workflows.training.resume import resume

    run = resume(options.run, micro_batch_size=options.micro_batch_size)
    if as_json:
        print_json({"run": str(run.path), **run.result})
    else:
        print(run.path)
        log_next(run.path)
    return 0

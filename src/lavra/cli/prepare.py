"""`lavra prepare`: tokenise once, train many times."""

from __future__ import annotations

from lavra.cli.options import parse, print_json, say_last
from lavra.config.runs import PrepareConfig
from lavra.core.program import command


def main(arguments: list[str]) -> int:
    """Run `lavra prepare …`."""
    options, as_json = parse(
        PrepareConfig,
        arguments,
        prog="lavra prepare",
        description="Read a corpus, set validation documents apart and tokenise it, once; the folder is then given to "
        "`lavra train` as its text.",
        examples=["lavra prepare mytext/ --out prepared/mine", "lavra train prepared/mine --budget 20m"],
    )
    from lavra.workflows.datasets.preparation import prepare_text

    report = prepare_text(options.data, options.out, options.text, force=options.force)
    if as_json:
        print_json(report)
    else:
        print(options.out)
        say_last(
            ("train", command("train", options.out, "--budget", "20m")),
            ("plan", command("plan", options.out, "--budget", "20m")),
        )
    return 0

"""`lavra prepare`: tokenise once, train many times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from lavra.cli.options import parse, print_json, say_last
from lavra.cli.train import lengthened
from lavra.config.training import TextConfig
from lavra.core.program import command


@dataclass
class _Prepare:
    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA")]
    """The text: files, folders, globs, - (standard input), hf:NAME[:SPLIT] or installed-docs:."""
    out: str
    """The folder to write the tokens and the tokenizer into."""
    force: bool = False
    """Replace an existing folder."""
    text: TextConfig = field(default_factory=TextConfig)


def main(arguments: list[str]) -> int:
    """Run `lavra prepare …`."""
    options, as_json = parse(
        _Prepare,
        [lengthened(word) for word in arguments],
        prog="lavra prepare",
        description="Read a corpus, set validation documents apart and tokenise it, once; the folder is then given to\n"
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
            ("train on it", command("train", options.out, "--budget", "20m")),
            ("look ahead", command("plan", options.out, "--budget", "20m")),
        )
    return 0

"""`lavra evaluate`: perplexity and bits per byte, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.cli.options import parse, print_json, say_last
from lavra.config.quantities import Choice
from lavra.core.program import command, without_display_flags


@dataclass
class _Evaluate:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: a run, one of its checkpoints, or a model folder."""
    data: tuple[str, ...] = ()
    """Text to measure on, named as for training; the validation text of the run by default."""
    split: Literal["train", "validation"] = "validation"
    """Which part of the run's own text, or of a prepared folder, to measure on."""
    stride: int | None = None
    """Tokens from the start of one sequence to the start of the next; half the context by default. A smaller stride
    gives each token more context, and takes longer."""
    context: int | None = None
    """Tokens of a sequence; the model's context by default."""
    text_column: str = "text"
    """Column of the files of --data that holds the text."""
    on_bad_row: Literal["skip", "error", "strict"] = "skip"
    """What to do with rows that cannot be used: skip and report them, or stop at the first; strict (also --strict)
    stops at whatever is left out, guessed or replaced."""
    encoding: str | None = None
    """Encoding of the files, such as windows-1251; by default the one that a byte-order mark names, else UTF-8, else
    Windows-1252."""
    bos: Choice = None
    """--no-bos: a document's first token is predicted from an end-of-document token, where the model's own tokenizer
    begins texts with another one."""
    device: str = "auto"
    """Device that computes: auto, cpu, cuda or mps."""
    seed: int = 0
    """Seed of the bootstrap from which the intervals come."""


def main(arguments: list[str]) -> int:
    """Run `lavra evaluate …`."""
    options, as_json = parse(
        _Evaluate,
        ["--on-bad-row=strict" if word == "--strict" else word for word in arguments],
        prog="lavra evaluate",
        description="Measure a model on text: perplexity, bits per byte, per character and per word, with intervals "
        "over documents, beside xz, a unigram model and guessing.",
        examples=["lavra evaluate runs/book", "lavra evaluate runs/book --data news.jsonl.gz --json"],
    )
    from lavra.workflows.evaluate import evaluate

    found = evaluate(
        options.model,
        options.data,
        split=options.split,
        stride=options.stride,
        context=options.context,
        text_column=options.text_column,
        on_bad_row=options.on_bad_row,
        bos=options.bos,
        encoding=options.encoding,
        device=options.device,
        seed=options.seed,
    )
    if as_json:
        print_json(found.to_json())
    else:
        print(found.table)
        kept = command("evaluate", *without_display_flags(arguments), "--json")
        say_last(
            ("result", f"printed above, and not kept; {kept} > evaluation.json keeps it"),
            ("try it", command("generate", options.model, "--prompt", "…")),
        )
    return 0

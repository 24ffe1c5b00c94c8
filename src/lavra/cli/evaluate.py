"""`lavra evaluate`: perplexity and bits per byte, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.cli.options import parse, print_json
from lavra.config.quantities import Choice


@dataclass
class _Evaluate:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run, one of its checkpoints, or a model folder."""
    data: tuple[str, ...] = ()
    """Text to measure on, as for training; the run's held-out text by default."""
    split: Literal["train", "validation"] = "validation"
    """Which part of the run's own, or of a prepared, text."""
    stride: int | None = None
    """Tokens between windows; half the context by default."""
    context: int | None = None
    """Tokens of a window; the model's by default."""
    text_column: str = "text"
    """Column that holds the text."""
    on_bad_row: Literal["skip", "error", "strict"] = "skip"
    """What to do with rows that cannot be used: skip and report them, or stop at the first; strict (also --strict)
    stops at whatever is left out, guessed or replaced."""
    encoding: str | None = None
    """Encoding of the files; by default what their mark names, else UTF-8, else Windows-1252."""
    bos: Choice = None
    """--no-bos: a document's first token is predicted from an end-of-document token, where the model's own tokenizer
    begins texts with another one."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Of the bootstrap."""


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
    return 0

"""`lavra export`: a model for the rest of the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.cli.options import parse, print_json


@dataclass
class _Export:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run, one of its checkpoints, a model folder, a Hugging Face folder, a hub name or a llama2.c file."""
    out: str
    """The folder to make."""
    format: Literal["hf"] = "hf"
    """hf: a folder that transformers opens (config.json, model.safetensors, tokenizer, model card)."""
    data: tuple[str, ...] = ()
    """Text to compare both models on; some sentences that come with lavra by default."""
    text_column: str = "text"
    """Column that holds the text."""
    force: bool = False
    """Replace an existing folder."""


def main(arguments: list[str]) -> int:
    """Run `lavra export …`."""
    options, as_json = parse(
        _Export,
        arguments,
        prog="lavra export",
        description="Write a model as a folder of the field's most common format, open it with transformers in a fresh "
        "process, and compare the logits. The folder is kept only if they are the same.",
        examples=["lavra export runs/book --out exported/book", "lavra export gpt2 --out exported/gpt2"],
    )
    from lavra.recipes.export import export

    made = export(options.model, options.out, options.data, text_column=options.text_column, force=options.force)
    if as_json:
        print_json(made.to_json())
    else:
        print(f"{made.folder}: a {made.family} model\n{made.certificate}")
    return 0

"""`lavra generate`: write text."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.cli.options import parse, print_json
from lavra.core.errors import InputError
from lavra.core.terminal import printable
from lavra.generation.options import GenerateOptions


@dataclass
class _Generate:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run, one of its checkpoints, or a model folder."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue; an empty one begins a document."""
    input: Annotated[str, tyro.conf.arg(name="in")] = ""
    """Instead: a file of JSON Lines, whose "prompt" is continued; wants --out."""
    out: str = ""
    """Write the texts of --in to this file; begun again, only what is missing is made."""
    force: bool = False
    """Overwrite an --out that holds the texts of another request."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: Literal["auto", "torch", "ctranslate2"] = "auto"
    """What computes. auto: ctranslate2 on a CPU for 64 texts or more (or a model that it had before), where it can do
    what is asked; else torch."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """auto: fp32 where the text is determined (greedy, beams, contrastive), else the fastest: bf16, int8 with
    ctranslate2."""
    how: Annotated[GenerateOptions, tyro.conf.arg(name="")] = field(default_factory=GenerateOptions)


def main(arguments: list[str]) -> int:
    """Run `lavra generate …`."""
    options, as_json = parse(
        _Generate,
        arguments,
        prog="lavra generate",
        description="Continue a prompt; one text is written as it is made.",
        examples=[
            'lavra generate runs/book --prompt "Era uma vez"',
            'lavra generate runs/book --prompt "Era uma vez" --samples 3 --temperature 0.7 --top-p 0.9 --seed 1',
            "lavra generate runs/book --greedy --max-new-tokens 50 --json",
            'lavra generate runs/book --prompt "Era" --beams 5 --samples 5 --max-new-tokens 20',
            "lavra generate runs/book --in prompts.jsonl --out texts.jsonl --samples 4",
        ],
    )
    if bool(options.input) != bool(options.out):
        raise InputError("--in and --out belong together", "give both, or --prompt")
    where = {"engine": options.engine, "device": options.device, "precision": options.precision}
    if options.input:
        from lavra.recipes.generate_file import generate_file

        counts = generate_file(options.model, options.input, options.out, options.how, force=options.force, **where)
        if as_json:
            print_json({"out": options.out, **counts})
        return 0
    from lavra.generation.engines.engine import generate_with
    from lavra.recipes.engines import open_engine

    engine = open_engine(options.model, options.prompt, options.how, **where)
    if not as_json and len(options.prompt) == 1 and options.how.samples == 1 and options.how.beams == 1:
        show = printable if sys.stdout.isatty() else str  # a pipe gets what the model wrote, byte for byte
        pieces = engine.stream(options.prompt[0], options.how)
        first = next(pieces, "")  # before anything is written, so that what is wrong is said alone
        sys.stdout.write(show(options.prompt[0] + first if engine.continues else first))
        for piece in pieces:
            sys.stdout.write(show(piece))
            sys.stdout.flush()
        print()
        return 0
    made = generate_with(engine, options.prompt, options.how)
    if as_json:
        keys = ("prompt", "sample", "text", "tokens", "reason", "score")
        print_json({"generations": [{key: getattr(one, key) for key in keys} for one in made]})
    else:
        text = "\n\n---\n\n".join((one.prompt if engine.continues else "") + one.text for one in made)
        print(printable(text) if sys.stdout.isatty() else text)
    return 0

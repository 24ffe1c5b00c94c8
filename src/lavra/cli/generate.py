"""`lavra generate`: write text."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from lavra.cli.options import parse, print_json
from lavra.generation.options import GenerateOptions


@dataclass
class _Generate:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run, one of its checkpoints, or a model folder."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue; an empty one begins a document."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
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
        ],
    )
    from lavra.recipes.generate import generate, stream

    if not as_json and len(options.prompt) == 1 and options.how.samples == 1:
        sys.stdout.write(options.prompt[0])
        for piece in stream(options.model, options.prompt[0], options.how, device=options.device):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
        return 0
    made = generate(options.model, options.prompt, options.how, device=options.device)
    if as_json:
        keys = ("prompt", "sample", "text", "tokens", "reason")
        print_json({"generations": [{key: getattr(one, key) for key in keys} for one in made]})
    else:
        print("\n\n---\n\n".join(one.prompt + one.text for one in made))
    return 0

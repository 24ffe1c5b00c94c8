"""Writing text with a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lavra.generation.engines.engine import generate_with
from lavra.generation.generate import Generation
from lavra.generation.options import GenerateOptions
from lavra.recipes.engines import open_engine


def generate(
    model: str,
    prompts: Sequence[str],
    options: GenerateOptions | None = None,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> list[Generation]:
    """Continue prompts with the model at `model` (a run, a checkpoint or a model folder).

    Engine and precision are chosen by the rule of `lavra.recipes.engines.open_engine` where they are "auto".

    Raises:
        InputError: if there is no such model, or a prompt does not fit its context.
    """
    options = (options or GenerateOptions()).with_files_read()
    chosen = open_engine(model, prompts, options, engine=engine, device=device, precision=precision)
    return generate_with(chosen, prompts, options)


def stream(
    model: str,
    prompt: str,
    options: GenerateOptions | None = None,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> Iterator[str]:
    """Yield the continuation of one prompt piece by piece, as it is made.

    Raises:
        InputError: if there is no such model, or the prompt does not fit its context.
    """
    options = (options or GenerateOptions()).with_files_read()
    chosen = open_engine(model, [prompt], options, engine=engine, device=device, precision=precision)
    yield from chosen.stream(prompt, options)

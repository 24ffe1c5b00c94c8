"""Writing text with a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from lavra.generation.generate import Generation
from lavra.generation.generate import generate as continue_prompts
from lavra.generation.generate import stream as stream_prompt
from lavra.generation.options import GenerateOptions
from lavra.recipes.models import open_model


def generate(
    model: str,
    prompts: Sequence[str],
    options: GenerateOptions | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
) -> list[Generation]:
    """Continue prompts with the model at `model` (a run, a checkpoint or a model folder), its weights in `precision`.

    Raises:
        InputError: if there is no such model, or a prompt does not fit its context.
    """
    opened = open_model(model, device, precision)
    with torch.no_grad():
        return continue_prompts(opened.model, opened.tokenizer, prompts, options)


def stream(
    model: str,
    prompt: str,
    options: GenerateOptions | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
) -> Iterator[str]:
    """Yield the continuation of one prompt piece by piece, as it is made.

    Raises:
        InputError: if there is no such model, or the prompt does not fit its context.
    """
    opened = open_model(model, device, precision)
    with torch.no_grad():
        yield from stream_prompt(opened.model, opened.tokenizer, prompt, options)

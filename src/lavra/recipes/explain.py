"""Showing what a model would write next."""

from __future__ import annotations

from lavra.generation.explaining import Step
from lavra.generation.explaining import explain as explain_prompt
from lavra.generation.options import GenerateOptions
from lavra.recipes.models import open_model


def explain(
    model: str, prompt: str, options: GenerateOptions | None = None, *, top: int = 10, device: str = "auto"
) -> list[Step]:
    """Return the steps that the model at `model` (a run, a checkpoint or a model folder) takes after a prompt.

    Raises:
        InputError: if there is no such model, or the prompt does not fit its context.
    """
    opened = open_model(model, device)
    return explain_prompt(opened.model, opened.tokenizer, prompt, options, top=top)

"""Answering questions that need several facts, with a model that asks and a function that finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from lavra.config.generation import GenerateOptions
from lavra.generation.generate import generate
from lavra.generation.self_asking import SelfAsked
from lavra.generation.self_asking import self_ask as ask_oneself
from lavra.text.templates import read_templates
from lavra.workflows.models.open import open_model


def self_ask(
    model: str,
    question: str,
    retrieve: Callable[[str], str],
    *,
    templates: str = "self-ask",
    options: GenerateOptions | None = None,
    most: int = 5,
    device: str = "auto",
) -> SelfAsked:
    """Answer a question with the model at `model`; see `lavra.generation.self_asking.self_ask`.

    Args:
        model: a run, a checkpoint or a model folder.
        question: what is to be answered.
        retrieve: answers a follow-up question.
        templates: a TOML file whose first template is used, or the built-in "self-ask".
        options: how to write; greedy, up to 60 tokens at a time, by default.
        most: follow-up questions at most.
        device: where to compute.

    Raises:
        InputError: if there is no such model or template, or the prompt does not fit the context.
    """
    template = read_templates(templates)[0]
    how = options or GenerateOptions(greedy=True, max_new_tokens=60)
    opened = open_model(model, device)

    def write(prompt: str, stop: tuple[str, ...]) -> str:
        with torch.no_grad():
            made = generate(opened.model, opened.tokenizer, [prompt], replace(how, stop=(*how.stop, *stop)))
        return made[0].text

    return ask_oneself(question, template, write, retrieve, most=most)

"""Answering questions that need several facts: self-ask prompting, with a function that answers the follow-ups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from lavra.config.generation import GenerateOptions
from lavra.generation.generate import generate
from lavra.generation.self_asking import SelfAsked
from lavra.generation.self_asking import self_ask as ask_oneself
from lavra.text.templates import read_templates
from lavra.workflows.models.open import open_language_model


def self_ask(
    model: str,
    question: str,
    retrieve: Callable[[str], str],
    *,
    templates: str = "self-ask",
    options: GenerateOptions | None = None,
    limit: int = 5,
    device: str = "auto",
) -> SelfAsked:
    """Answer a question by self-ask prompting (Press et al., arXiv 2210.03350).

    The model writes follow-up questions, `retrieve` answers them, and the model then writes the final answer; see
    `lavra.generation.self_asking.self_ask`.

    Args:
        model: The location of the model: a run, a checkpoint or a model folder.
        question: The question to answer.
        retrieve: A function that returns the answer to a follow-up question.
        templates: A TOML file whose first template is used, or the built-in "self-ask".
        options: How to generate; greedy, with up to 60 tokens at a time, if None.
        limit: Most follow-up questions.
        device: Device that computes: auto, cpu, cuda or mps.

    Returns:
        The answer, with the follow-up questions and their answers.

    Raises:
        InputError: If there is no such model or template, or the prompt does not fit the context.
    """
    template = read_templates(templates)[0]
    how = options or GenerateOptions(greedy=True, max_new_tokens=60)
    opened = open_language_model(model, device)

    def write(prompt: str, stop: tuple[str, ...]) -> str:
        with torch.no_grad():
            made = generate(opened.model, opened.tokenizer, [prompt], replace(how, stop=(*how.stop, *stop)))
        return made[0].text

    return ask_oneself(question, template, write, retrieve, limit=limit)

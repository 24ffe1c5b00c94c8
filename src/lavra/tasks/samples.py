"""Sample texts of a trained model: new documents, or completions of validation prompts beside the expected ones."""

from __future__ import annotations

from dataclasses import replace

import torch

from lavra.config.generation import GenerateOptions
from lavra.core.errors import LavraError
from lavra.core.progress import log, printable
from lavra.generation.generate import Generation, generate
from lavra.tasks.base import Trained
from lavra.training.deadline import amount_in_time

SAMPLE_TOKENS = 120
"""Most tokens of a sample text."""

_TRIAL = 4
"""Tokens by which the speed of generation is measured."""

_LEAST_SAMPLE = 16
"""Fewest tokens of a sample text, however slow the machine is."""


def written_samples(trained: Trained, count: int, *, greedy: bool) -> list[dict[str, str]]:
    """Return sample texts that a model writes after the prompts of its data set.

    Args:
        trained: The model and its data.
        count: Number of samples.
        greedy: Whether each prompt is completed once by the likeliest tokens, rather than `count` times by sampling.

    Returns:
        For each sample `prompt`, `text`, and `expected` where the data say what follows the prompt. Nothing where
        generation fails: the run is trained and measured, and no sample text is worth losing that.
    """
    if not count:
        return []
    asked = trained.dataset.samples(count)
    options = GenerateOptions(
        max_new_tokens=min(SAMPLE_TOKENS, trained.plan.context),
        samples=1 if greedy else count,
        greedy=greedy,
        seed=trained.plan.seed,
        long_prompt="window",
    )
    prompts = list(dict.fromkeys(prompt for prompt, _ in asked))

    def write(tokens: int) -> list[Generation]:
        limited = replace(options, max_new_tokens=tokens)
        return list(generate(trained.model, trained.dataset.tokenizer, prompts, limited))

    try:
        with torch.no_grad():
            most = options.max_new_tokens
            made = write(amount_in_time(most, trained.deadline, write, trial=_TRIAL, least=_LEAST_SAMPLE))
    except Exception as error:
        reason = error.message if isinstance(error, LavraError) else f"{type(error).__name__}: {error}"
        log(f"no sample text was generated: {printable(reason)}")
        return []
    expected = dict(asked) if greedy else {}
    return [
        {"prompt": one.prompt, "text": one.text}
        | ({"expected": expected[one.prompt]} if one.prompt in expected else {})
        for one in made
    ]

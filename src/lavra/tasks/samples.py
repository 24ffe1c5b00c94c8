"""Sample texts of a trained model: new documents, or completions of validation prompts beside the expected ones."""

from __future__ import annotations

import torch

from lavra.config.generation import GenerateOptions
from lavra.core.errors import LavraError
from lavra.core.progress import log, printable
from lavra.generation.generate import generate
from lavra.tasks.base import Trained

_SAMPLE_TOKENS = 120
"""Most tokens of a sample text."""


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
        max_new_tokens=min(_SAMPLE_TOKENS, trained.plan.context),
        samples=1 if greedy else count,
        greedy=greedy,
        seed=trained.plan.seed,
        long_prompt="window",
    )
    prompts = list(dict.fromkeys(prompt for prompt, _ in asked))
    try:
        with torch.no_grad():
            made = generate(trained.model, trained.dataset.tokenizer, prompts, options)
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

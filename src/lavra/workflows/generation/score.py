"""Scoring options after prompts with a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lavra.core.errors import InputError
from lavra.data.readers.lines import read_records, text, texts
from lavra.generation.scoring import By, Score, shares
from lavra.generation.scoring import score as score_options
from lavra.workflows.models.open import open_language_model

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.protocols import CachedModel


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt and its scored options.

    Attributes:
        prompt: The text before the options.
        scores: The score of each option, in the order of the options.
        values: What the options are compared by, one number for each.
        probabilities: The softmax of the values: shares that sum to 1 over the options.
    """

    prompt: str
    scores: list[Score]
    values: list[float]
    probabilities: list[float]

    @property
    def best(self) -> str:
        """The text of the option with the largest value."""
        return self.scores[int(np.argmax(self.values))].option

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        options = [
            {
                "option": one.option,
                "log_probability": one.log_probability,
                "tokens": one.tokens,
                "bytes": one.bytes,
                "greedy": one.greedy,
                "from_prompt": one.from_prompt,
                "value": value,
                "probability": probability,
            }
            for one, value, probability in zip(self.scores, self.values, self.probabilities, strict=True)
        ]
        return {"prompt": self.prompt, "best": self.best, "options": options}


def score(
    model: str,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    by: By = "sum",
    neutral: str = "",
    long_prompt: Literal["refuse", "window"] = "refuse",
    bos: bool | None = None,
    device: str = "auto",
) -> list[ScoredPrompt]:
    """Score texts that may follow prompts by their log-probability under a model.

    Args:
        model: The location of the model: a run, a checkpoint or a model folder.
        prompts: The prompts.
        options: For each prompt, the texts that may follow; each usually starts with a space.
        by: What to compare options by: their log-probability ("sum"), its mean per "token" or per "byte", or how much
            the prompt raises it over `neutral` ("pmi": pointwise mutual information, Holtzman et al., arXiv
            2104.08315).
        neutral: The prompt that says nothing about the options, for `by="pmi"`.
        long_prompt: Whether a prompt that does not fit the context is an error ("refuse"), or its beginning is left out
            ("window").
        bos: Whether a beginning-of-text token comes before each prompt; None as the model's own tokenizer does.
        device: Device that computes: auto, cpu, cuda or mps.

    Returns:
        For each prompt its scored options, in the order of the prompts.

    Raises:
        InputError: If there is no such model, a prompt has no options, or a prompt does not fit.

    Examples:
        >>> import lavra
        >>> (found,) = lavra.score("runs/book", ["2 + 2 ="], [[" 4", " 5"]])   # doctest: +SKIP
        >>> found.best, found.probabilities                                    # doctest: +SKIP
    """
    if any(isinstance(mine, str) for mine in options):
        raise InputError("the options of a prompt are one string", "give a list of strings for each prompt")
    if any(not mine for mine in options):
        raise InputError("a prompt has no options", "give at least one option")
    opened = open_language_model(model, device)
    how: dict[str, Any] = {"by": by, "neutral": neutral, "long_prompt": long_prompt, "bos": bos}
    return score_with(opened.model, opened.tokenizer, prompts, options, **how)


def score_with(
    model: CachedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    by: By = "sum",
    neutral: str = "",
    long_prompt: Literal["refuse", "window"] = "refuse",
    bos: bool | None = None,
) -> list[ScoredPrompt]:
    """Score texts that may follow prompts with a model that is open already.

    Args:
        model: The model, in evaluation mode.
        tokenizer: The tokenizer of the model.
        prompts: The prompts, as for `score`.
        options: The texts that may follow each prompt, as for `score`.
        by: What to compare options by, as for `score`.
        neutral: The prompt that says nothing about the options, as for `score`.
        long_prompt: What to do with prompts that do not fit the context, as for `score`.
        bos: Whether a beginning-of-text token comes before each prompt, as for `score`.

    Returns:
        For each prompt its scored options, in the order of the prompts.
    """
    found = score_options(model, tokenizer, prompts, options, long_prompt=long_prompt, bos=bos)
    without: dict[str, Score] = {}
    if by == "pmi":
        distinct = list(dict.fromkeys(option for mine in options for option in mine))
        (scores,) = score_options(model, tokenizer, [neutral], [distinct], bos=bos if neutral.strip() else None)
        without = dict(zip(distinct, scores, strict=True))
    scored = []
    for prompt, scores in zip(prompts, found, strict=True):
        values = [one.value(by, without.get(one.option)) for one in scores]
        scored.append(ScoredPrompt(prompt, scores, values, shares(np.array(values)).tolist()))
    return scored


def score_file(model: str, path: str, **how: Any) -> list[ScoredPrompt]:
    """Score the options of every line of a JSON Lines file with "prompt" and "options".

    Args:
        model: The location of the model, as for `score`.
        path: The file.
        how: The other arguments of `score`, by name.

    Returns:
        For each line its scored options, in the order of the lines.

    Raises:
        InputError: If a line lacks "prompt" or "options", or as for `score`.
    """
    records = read_records(path, {"prompt": text, "options": texts})
    return score(model, [one["prompt"] for one in records], [one["options"] for one in records], **how)

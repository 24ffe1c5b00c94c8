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
from lavra.workflows.models.open import open_model

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.contract import CachedModel


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt and its options.

    Attributes:
        prompt: the text before the options.
        scores: of the options, in their order.
        values: what they are compared by.
        probabilities: in proportion to exp(value), summing to one over the options.
    """

    prompt: str
    scores: list[Score]
    values: list[float]
    probabilities: list[float]

    @property
    def best(self) -> str:
        """The option with the largest value."""
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
    """Score what may come after prompts.

    Args:
        model: a run, a checkpoint or a model folder.
        prompts: texts.
        options: for each prompt, what may come next; as a rule each begins with a space.
        by: what to compare options by: their log-probability, that per token or per byte, or how much the prompt
            raises it over `neutral` (pointwise mutual information).
        neutral: the prompt that says nothing, for `by="pmi"`.
        long_prompt: refuse prompts that do not fit the context, or leave their beginnings out.
        bos: read a beginning-of-text token before a prompt, or none; None as the model's own tokenizer does it.
        device: where to compute.

    Raises:
        InputError: if there is no such model, a prompt has no options, or one does not fit.
    """
    if any(isinstance(mine, str) for mine in options):
        raise InputError("the options of a prompt are one string", "give a list of strings for each prompt")
    if any(not mine for mine in options):
        raise InputError("a prompt has no options", "give at least one option")
    opened = open_model(model, device)
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
    """Score with an open model; as `score`."""
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
    """Score the lines of a file: objects with "prompt" and "options"; `how` as for `score`."""
    records = read_records(path, {"prompt": text, "options": texts})
    return score(model, [one["prompt"] for one in records], [one["options"] for one in records], **how)

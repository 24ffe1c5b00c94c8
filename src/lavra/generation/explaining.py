"""What a model would write next, step by step: the candidates, the entropy, and which of them each filter keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.core.seeds import numpy_stream
from lavra.generation import filters
from lavra.generation.prompts import encode_prompt
from lavra.generation.reader import Reader
from lavra.generation.rows import Row
from lavra.generation.scores import Scores, draw, reshape
from lavra.models.protocols import CachedModel, eval_mode

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer

FILTERS = ("top_k", "top_p", "min_p", "typical_p")
"""Options of generation that filter tokens."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token that may come next.

    Attributes:
        token: Id of the token.
        text: Text that the token stands for.
        probability: Probability by the model, after the penalties.
        tempered: Probability after the temperature.
        final: Probability after all filters, with which sampling takes the token.
        kept_by: Names of the active filters that keep the token, each applied alone after the temperature.
    """

    token: int
    text: str
    probability: float
    tempered: float
    final: float
    kept_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of generation.

    Attributes:
        candidates: Likeliest tokens, the likeliest first.
        entropy: Entropy in bits of the distribution by the model, after the penalties.
        tempered_entropy: Entropy in bits after the temperature.
        final_entropy: Entropy in bits after all filters.
        kept: Number of tokens that all filters together keep.
        kept_by: Number of tokens that each active filter keeps when it is applied alone.
        chosen: Id of the token that was taken.
        text: Text of that token; empty for the end-of-document token.
    """

    candidates: tuple[Candidate, ...]
    entropy: float
    tempered_entropy: float
    final_entropy: float
    kept: int
    kept_by: dict[str, int]
    chosen: int
    text: str


def explain(
    model: CachedModel, tokenizer: Tokenizer, prompt: str, options: GenerateOptions | None = None, *, top: int = 10
) -> list[Step]:
    """Return what a model would write after a prompt, for `options.max_new_tokens` steps or until it ends the text.

    The tokens taken are those that `generate` takes with the same options.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        prompt: Text to continue.
        options: Options of generation: temperature, filters, penalties and seed. None takes the defaults with ten new
            tokens.
        top: Number of candidates to return for each step.

    Raises:
        InputError: If the options ask for another strategy than greedy decoding or sampling, or the prompt does not fit
            the context.
    """
    options = options or GenerateOptions(max_new_tokens=10)
    if options.beams > 1 or options.contrastive is not None:
        raise InputError("explain shows greedy decoding and sampling", "leave out --beams and --contrastive")
    read = encode_prompt(model, tokenizer, prompt, options.long_prompt, options.bos)
    row = Row(list(read.ids), len(read.ids), **read.as_row)
    reader, scores = Reader(model), Scores(tokenizer, options)
    draws = numpy_stream(options.seed, "generate", prompt, 0).random(options.max_new_tokens)
    steps: list[Step] = []
    with eval_mode(model), torch.no_grad():
        for number in range(options.max_new_tokens):
            logits = model.head(reader.next_features([row], options.max_new_tokens - number))
            step = _step(tokenizer, scores.apply(logits, [row])[0], options, float(draws[number]), top)
            steps.append(step)
            if step.chosen in tokenizer.end_ids:
                break
            row.ids.append(step.chosen)
    return steps


def _step(tokenizer: Tokenizer, logits: torch.Tensor, options: GenerateOptions, uniform: float, top: int) -> Step:
    probabilities = logits.softmax(-1)
    tempered = filters.scale(logits, options.temperature)
    final = reshape(logits[None], options)[0]
    if options.greedy:
        final = torch.full_like(logits, filters.RULED_OUT).index_fill(0, logits.argmax(-1), 0.0)
    alone = {name: _alone(tempered, name, options) for name in FILTERS if _is_on(name, options)}
    chosen = int(draw(final[None], torch.tensor([uniform], dtype=final.dtype, device=final.device)))
    tempered_share, final_share = tempered.softmax(-1), final.softmax(-1)
    best = probabilities.topk(min(top, int((probabilities > 0).sum()))).indices.tolist()
    candidates = tuple(
        Candidate(
            token,
            tokenizer.decode([token]) if token not in tokenizer.end_ids else "",
            float(probabilities[token]),
            float(tempered_share[token]),
            float(final_share[token]),
            tuple(name for name, kept in alone.items() if bool(kept[token])),
        )
        for token in best
    )
    return Step(
        candidates,
        _bits(probabilities),
        _bits(tempered_share),
        _bits(final_share),
        int((final_share > 0).sum()),
        {name: int(kept.sum()) for name, kept in alone.items()},
        chosen,
        tokenizer.decode([chosen]) if chosen not in tokenizer.end_ids else "",
    )


def _is_on(name: str, options: GenerateOptions) -> bool:
    neutral = 1.0 if name in ("top_p", "typical_p") else 0.0
    return not options.greedy and getattr(options, name) != neutral


def _alone(tempered: torch.Tensor, name: str, options: GenerateOptions) -> torch.Tensor:
    """Return whether one filter, applied alone, keeps each token, (vocabulary,) bool."""
    off = replace(options, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)
    return reshape(tempered[None], replace(off, **{name: getattr(options, name)}))[0] > filters.RULED_OUT


def _bits(probabilities: torch.Tensor) -> float:
    positive = probabilities[probabilities > 0]
    return max(0.0, float(-(positive * positive.log2()).sum()))

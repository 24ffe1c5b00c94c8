"""The log-probability of options after prompts: each prompt is read once, whatever the number of its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lavra.core.errors import InputError, LavraError
from lavra.core.machine import is_out_of_memory, release_memory
from lavra.core.progress import Progress
from lavra.data.tokenizers.prompt_ids import encode_options
from lavra.generation.prompts import Prompt, decoder_prompt, source_prompt, writes_from_source
from lavra.generation.reader import Reader
from lavra.generation.rows import Row
from lavra.models.contract import device_of, evaluating

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.contract import CachedModel

By = Literal["sum", "token", "byte", "pmi"]
"""How options are compared: by log-probability, by that per token or byte, or by its gain over a neutral prompt."""

TOKENS_AT_ONCE = 4096
"""Tokens of options that are scored together, padding included."""


@dataclass(frozen=True, slots=True)
class Score:
    """How likely one option is after one prompt.

    Attributes:
        option: the text that was scored.
        log_probability: natural logarithm, summed over the option's tokens.
        tokens: number of them.
        bytes: of the option in UTF-8.
        greedy: whether each token is the likeliest one, so that greedy decoding writes the option.
        from_prompt: tokens at the prompt's end that are scored along with the option, because this option, or another
            one after the same prompt, completes the prompt's last word; 0 as a rule.
    """

    option: str
    log_probability: float
    tokens: int
    bytes: int
    greedy: bool
    from_prompt: int = 0

    def value(self, by: By, neutral: Score | None = None) -> float:
        """Return the number to compare options by; `neutral` is the score after the neutral prompt, for "pmi"."""
        if by == "token":
            return self.log_probability / max(1, self.tokens)
        if by == "byte":
            return self.log_probability / max(1, self.bytes)
        if by == "pmi":
            if neutral is None:
                raise ValueError("pmi needs the option's score after a neutral prompt")
            return self.log_probability - neutral.log_probability
        return self.log_probability


def score(
    model: CachedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    long_prompt: Literal["refuse", "window"] = "refuse",
    bos: bool | None = None,
) -> list[list[Score]]:
    """Score options after prompts.

    A prompt is read as the model's own tokenizer gives it, an empty one as the beginning of a document. Options that
    complete its last word are scored from the last token that all of them share with it, see `encode_options`.

    Args:
        model: a model with a cache.
        tokenizer: the model's own.
        prompts: the texts before the options.
        options: for each prompt, the texts that may come next; as a rule each begins with a space.
        long_prompt: what to do with a prompt that does not fit the context with its longest option: refuse it, or leave
            its beginning out.
        bos: whether a decoder reads a beginning-of-text token before a prompt; None as the tokenizer does it.

    Returns:
        For each prompt the scores of its options, in their order.

    Raises:
        InputError: for an empty option, or a prompt that does not fit the context.
    """
    requests = [
        _Request.of(model, tokenizer, prompt, mine, long_prompt, bos)
        for prompt, mine in zip(prompts, options, strict=True)
    ]
    found: list[list[Score]] = [[] for _ in requests]
    order = sorted(range(len(requests)), key=lambda number: requests[number].size)
    done, at_once = 0, TOKENS_AT_ONCE
    with evaluating(model), torch.no_grad(), Progress("scoring", len(requests), "prompts") as progress:
        while done < len(order):
            group = _group(model, requests, order[done:], at_once)
            scored = _try(model, [requests[number] for number in group])
            if scored is None:
                at_once = _smaller(group, requests)
                continue
            for number, scores in zip(group, scored, strict=True):
                found[number] = scores
            done += len(group)
            progress.update(done)
    return found


@dataclass(frozen=True, slots=True)
class _Request:
    """A prompt as the model reads it, and the ids of its options."""

    prompt: Prompt
    options: list[list[int]]
    texts: list[str]
    from_prompt: int

    @classmethod
    def of(
        cls,
        model: CachedModel,
        tokenizer: Tokenizer,
        prompt: str,
        options: Sequence[str],
        long_prompt: Literal["refuse", "window"],
        bos: bool | None,
    ) -> _Request:
        from_prompt = 0
        if writes_from_source(model):
            read = source_prompt(model, tokenizer, prompt, long_prompt)
            encoded = [tokenizer.encode(option) for option in options]
        else:
            found = encode_options(tokenizer, prompt, options)
            read, encoded, from_prompt = decoder_prompt(tokenizer, found.before, bos), found.options, found.from_prompt
        for ids, option in zip(encoded, options, strict=True):
            if not option or not ids:
                place = f"after {prompt[-40:]!r}"
                raise InputError(f"the option {option!r} {place} has no tokens", "give options with text")
        longest = max(map(len, encoded), default=0)
        room = model.context - longest + 1
        if room < 1 or (len(read.ids) > room and (long_prompt == "refuse" or read.source)):
            raise InputError(
                f"the prompt {prompt[:40]!r}… and its longest option have {len(read.before) + longest} tokens; "
                f"this model reads {model.context + 1 - read.marks} at most",
                "shorten them, or let the beginning of long prompts be left out (--long-prompt window)",
            )
        return cls(replace(read, ids=read.ids[-room:]), encoded, list(options), from_prompt)

    @property
    def size(self) -> int:
        """Tokens that scoring takes."""
        return self.prompt.size + sum(map(len, self.options))


def _group(model: CachedModel, requests: list[_Request], numbers: list[int], at_once: int) -> list[int]:
    """Return the first of `numbers`, and as many more as may be scored together with it.

    The longest prompt and the longest option, which may not belong together, share the cache, so they must fit it.
    """
    pads = getattr(model, "pads", True)
    group: list[int] = []
    rows = longest = read = written = 0
    for number in numbers:
        request = requests[number]
        rows += max(1, len(request.options))
        longest = max(longest, request.prompt.size + max(map(len, request.options), default=0))
        read = max(read, len(request.prompt.ids))
        written = max(written, max(map(len, request.options), default=0))
        odd = not pads and len(request.prompt.ids) != len(requests[numbers[0]].prompt.ids)
        if group and (rows * longest > at_once or odd or read + written - 1 > model.context):
            break
        group.append(number)
    return group


def _smaller(group: list[int], requests: list[_Request]) -> int:
    if len(group) == 1:
        raise LavraError(
            f"memory ran out scoring the {len(requests[group[0]].options)} options of one prompt",
            "give fewer options at a time",
        )
    release_memory()
    return sum(requests[number].size for number in group) // 2


def _try(model: CachedModel, requests: list[_Request]) -> list[list[Score]] | None:
    try:
        return _scored(model, requests)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _scored(model: CachedModel, requests: list[_Request]) -> list[list[Score]]:
    """Score the options of some prompts together."""
    owners = [number for number, request in enumerate(requests) for _ in request.options]
    if not owners:
        return [[] for _ in requests]
    flat = [ids for request in requests for ids in request.options]
    longest = max(map(len, flat))
    reader = Reader(model)
    prompts = [request.prompt for request in requests]
    rows = [Row(list(prompt.ids), len(prompt.ids), source=prompt.source) for prompt in prompts]
    last = reader.read(rows, longest)[:, -1:]
    device = device_of(model)
    targets = torch.tensor([ids + [0] * (longest - len(ids)) for ids in flat], device=device)
    real = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in flat], device=device).bool()
    features = last[torch.tensor(owners, device=device)]
    if longest > 1:
        reader.select(owners)
        features = torch.cat((features, reader.append(targets[:, :-1])), 1)
    log, best = _log_probabilities(model, features[real], targets[real])
    sums = torch.zeros(real.shape, dtype=log.dtype, device=device).masked_scatter(real, log).sum(1).tolist()
    greedy = (torch.zeros_like(real).masked_scatter(real, best) | ~real).all(1).tolist()
    scores = [[] for _ in requests]
    texts = [text for request in requests for text in request.texts]
    for number, owner in enumerate(owners):
        text, from_prompt = texts[number], requests[owner].from_prompt
        size = len(text.encode())
        scores[owner].append(Score(text, sums[number], len(flat[number]), size, greedy[number], from_prompt))
    return scores


def _log_probabilities(
    model: CachedModel, features: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (tokens,) float64 log-probabilities, and whether each is the likeliest; logits are held in pieces."""
    log, best = [], []
    for piece, wanted in zip(features.split(512), targets.split(512), strict=True):
        logits = model.head(piece)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        chosen = logits.gather(-1, wanted[:, None])[:, 0]
        log.append((chosen - logits.logsumexp(-1)).double())
        best.append(logits.argmax(-1) == wanted)
    return torch.cat(log), torch.cat(best)


def shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (…, options) probabilities in proportion to exp(value), which sum to one."""
    exponents = np.exp(values - values.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def calibrated(probabilities: NDArray[np.float64], content_free: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo a model's preference for some labels (contextual calibration, Zhao et al. 2021, arXiv 2102.09690).

    Args:
        probabilities: (…, labels), each row summing to one.
        content_free: (inputs, labels): the same after inputs without content, such as "N/A".

    Returns:
        (…, labels): divided by the mean of `content_free`, and made to sum to one again.
    """
    corrected = probabilities / np.maximum(content_free.mean(0), np.finfo(np.float64).tiny)
    return corrected / corrected.sum(-1, keepdims=True)

"""The log-probability of options after prompts. Each prompt is read once, whatever the number of its options."""

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
from lavra.models.protocols import device_of, eval_mode

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.protocols import CachedModel

By = Literal["sum", "token", "byte", "pmi"]
"""How options are compared: by their log-probability ("sum"), by their log-probability per token or per byte, or by
the difference from their log-probability after a neutral prompt ("pmi", pointwise mutual information)."""

TOKENS_AT_ONCE = 4096
"""Largest number of tokens that are scored together, padding included."""


@dataclass(frozen=True, slots=True)
class Score:
    """The likelihood of one option after one prompt.

    Attributes:
        option: Text that was scored.
        log_probability: Log-probability of the option in nats, summed over its tokens.
        tokens: Number of tokens scored.
        bytes: UTF-8 bytes of the option.
        greedy: Whether each token is the likeliest one, so that greedy decoding would write the option.
        from_prompt: Number of tokens at the end of the prompt that are scored together with the option, usually 0. They
            are scored where this option, or another one of the same prompt, completes the last word of the prompt.

    Examples:
        >>> Score("sim", log_probability=-3.0, tokens=2, bytes=3, greedy=False).value("token")
        -1.5
    """

    option: str
    log_probability: float
    tokens: int
    bytes: int
    greedy: bool
    from_prompt: int = 0

    def value(self, by: By, neutral: Score | None = None) -> float:
        """Return the number by which options are compared; more is better.

        Args:
            by: How options are compared, see `By`.
            neutral: Score of the option after a neutral prompt, which "pmi" needs.

        Raises:
            ValueError: If `by` is "pmi" and there is no neutral score.
        """
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
    """Return the log-probability of every option after its prompt.

    A prompt is read as the tokenizer of the model encodes it, and an empty one as the beginning of a document. Options
    that complete the last word of a prompt are scored from the last token that all of them share with the prompt, see
    `encode_options`.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        prompts: Texts before the options.
        options: For each prompt, the texts that may come next; usually each begins with a space.
        long_prompt: "refuse" raises an error for a prompt that does not fit the context together with its longest
            option; "window" leaves out its beginning.
        bos: Whether a decoder reads a beginning-of-text token before a prompt; None leaves that to the tokenizer.

    Returns:
        The scores of the options of each prompt, in their order.

    Raises:
        InputError: If an option is empty, or a prompt does not fit the context and is to be refused.
        LavraError: If memory does not suffice for the options of a single prompt.
    """
    requests = [
        _Request.of(model, tokenizer, prompt, mine, long_prompt, bos)
        for prompt, mine in zip(prompts, options, strict=True)
    ]
    found: list[list[Score]] = [[] for _ in requests]
    order = sorted(range(len(requests)), key=lambda number: requests[number].size)
    done, at_once = 0, TOKENS_AT_ONCE
    with eval_mode(model), torch.no_grad(), Progress("scoring", len(requests), "prompts") as progress:
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
    """A prompt as the model reads it, and the ids and texts of its options."""

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
        """Number of tokens that are read to score the options."""
        return self.prompt.size + sum(map(len, self.options))


def _group(model: CachedModel, requests: list[_Request], numbers: list[int], at_once: int) -> list[int]:
    """Return the first of `numbers`, and as many of the next ones as may be scored together with it.

    The longest prompt and the longest option share the cache even where they do not belong together, so both together
    must fit into it.
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
    """Return the scores of the options of some prompts, which are read together."""
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
    attention_mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in flat], device=device).bool()
    features = last[torch.tensor(owners, device=device)]
    if longest > 1:
        reader.select(owners)
        features = torch.cat((features, reader.append(targets[:, :-1])), 1)
    log, best = _log_probabilities(model, features[attention_mask], targets[attention_mask])
    sums = (
        torch.zeros(attention_mask.shape, dtype=log.dtype, device=device)
        .masked_scatter(attention_mask, log)
        .sum(1)
        .tolist()
    )
    greedy = (torch.zeros_like(attention_mask).masked_scatter(attention_mask, best) | ~attention_mask).all(1).tolist()
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
    """Return the log-probability of each target in nats, (tokens,) float64, and whether it is the likeliest token.

    Logits are made for a few hundred tokens at a time, so that those of all tokens never exist at once.
    """
    log, best = [], []
    for piece, wanted in zip(features.split(512), targets.split(512), strict=True):
        logits = model.head(piece)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        chosen = logits.gather(-1, wanted[:, None])[:, 0]
        log.append((chosen - logits.logsumexp(-1)).double())
        best.append(logits.argmax(-1) == wanted)
    return torch.cat(log), torch.cat(best)


def shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities in proportion to exp(value), the softmax over the options.

    Args:
        values: Values of the options, such as log-probabilities in nats, (…, options).

    Examples:
        >>> shares(np.log(np.array([1.0, 3.0]))).round(3).tolist()
        [0.25, 0.75]
    """
    # Subtracting the maximum changes no share and keeps the exponentials from overflowing.
    exponents = np.exp(values - values.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def calibrated(probabilities: NDArray[np.float64], content_free: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities that are corrected for the model's preference for some labels.

    This is contextual calibration (Zhao et al. 2021, arXiv 2102.09690): each probability is divided by the mean
    probability of its label after inputs without content, and the results are normalised to sum to 1.

    Args:
        probabilities: Probabilities of the labels, (…, labels); each row sums to 1.
        content_free: Probabilities of the labels after inputs without content, such as "N/A", (inputs, labels).

    Returns:
        Corrected probabilities, (…, labels); each row sums to 1.

    Examples:
        >>> calibrated(np.array([0.8, 0.2]), np.array([[0.8, 0.2]])).tolist()
        [0.5, 0.5]
    """
    corrected = probabilities / np.maximum(content_free.mean(0), np.finfo(np.float64).tiny)
    return corrected / corrected.sum(-1, keepdims=True)

"""A prompt and what comes after it, as ids whose pieces spell the text: for training, and for scoring options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lavra.data.tokenizer import Tokenizer


def encode_pair(tokenizer: Tokenizer, prompt: str, option: str) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of what is learned after it.

    White space at the end of the prompt goes to what comes after; both are then encoded as one text, and what comes
    after as many tokens as the prompt alone has is the second part (as in lm-evaluation-harness). Where that text does
    not begin with the prompt's own tokens, because the second part completes the prompt's last word, the second part is
    encoded by itself: a model that generates reads the prompt's own tokens and goes on from there.
    """
    return encode_pairs(tokenizer, [(prompt, option)])[0]


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Return what `encode_pair` returns for each (prompt, option), using every core."""
    kept = [prompt.rstrip() for prompt, _ in pairs]
    distinct = list(dict.fromkeys(kept))  # one passage often comes with many questions
    befores = dict(zip(distinct, tokenizer.encode_many(distinct), strict=True))
    wholes = tokenizer.encode_many([prompt + option for prompt, option in pairs])
    found = []
    for (prompt, option), start, whole in zip(pairs, kept, wholes, strict=True):
        before = befores[start]
        if _shared(before, whole) == len(before):
            after = whole[len(before) :].tolist()
        else:
            after = continuing(tokenizer, prompt[len(start) :] + option)
        found.append((before.tolist(), after))
    return found


@dataclass(frozen=True, slots=True)
class EncodedOptions:
    """A prompt and the options after it.

    Attributes:
        before: ids of the prompt, up to the place from which all options are scored.
        options: ids of each option, from that place on; empty where an option has no tokens.
        from_prompt: how many tokens of the prompt, read by itself, come after that place.
    """

    before: list[int]
    options: list[list[int]]
    from_prompt: int


def encode_options(tokenizer: Tokenizer, prompt: str, options: Sequence[str]) -> EncodedOptions:
    """Return the ids by which options after one prompt are compared.

    Each option is encoded with the prompt as one text. As a rule that text begins with the prompt's own tokens, and the
    option is the rest. An option that completes the prompt's last word ("A pa" and "lavra") merges with it; then all
    options are scored from the last token that every such text shares with the prompt, so that they differ by as much
    as their whole texts do.
    """
    start = prompt.rstrip()
    before, *wholes = tokenizer.encode_many([start, *(prompt + option for option in options)])
    kept = min((_shared(before, whole) for whole in wholes), default=len(before))
    after = [[] if np.array_equal(whole, before) else whole[kept:].tolist() for whole in wholes]
    return EncodedOptions(before[:kept].tolist(), after, len(before) - kept)


def continuing(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text that continues another: without the space that some tokenizers put before every text."""
    for anchor in ("\n", "=", "x"):  # some tokenizers know no line ends
        before, whole = tokenizer.encode(anchor), tokenizer.encode(anchor + text)
        if before and whole[: len(before)] == before:
            return whole[len(before) :]
    return tokenizer.encode(text)


def _shared(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many ids two texts have in common from their beginnings."""
    length = min(len(first), len(second))
    differs = np.flatnonzero(first[:length] != second[:length])
    return int(differs[0]) if len(differs) else length

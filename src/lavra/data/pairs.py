"""A prompt and what comes after it, as ids: one rule for training, scoring and generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lavra.data.tokenizer import Tokenizer


def encode_pair(tokenizer: Tokenizer, prompt: str, option: str) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of an option after it.

    White space at the end of the prompt goes to the option; both are then encoded as one text, and what comes after as
    many tokens as the prompt alone has is the option (as in lm-evaluation-harness). Where nothing comes after, as when
    the option completes the prompt's last word, it is encoded by itself.
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
        after = whole[len(before) :].tolist()
        if not after and option:
            after = tokenizer.encode(prompt[len(start) :] + option)
        found.append((before.tolist(), after))
    return found

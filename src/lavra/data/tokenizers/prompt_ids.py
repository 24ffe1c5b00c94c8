"""Encodes a prompt and what comes after it, with the boundary between them that generation has.

Training on completions and scoring of options both use it, so that a model is trained and measured on the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lavra.core.errors import InputError

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer


def encode_pair(tokenizer: Tokenizer, prompt: str, option: str) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of the option or completion after it.

    White space at the end of the prompt goes to the option; both are then encoded as one text, and the tokens after
    those that the prompt alone has are the option's (as in lm-evaluation-harness). Where that text does not begin with
    the prompt's own tokens, because the option completes the prompt's last word, the option is encoded by itself: a
    model that generates reads the prompt's own tokens and continues from there.

    Args:
        tokenizer: Tokenizer of the model.
        prompt: The text before.
        option: The text after.

    Returns:
        The ids of the prompt, without white space at its end, and the ids of the option. Neither has special tokens.

    Examples:
        >>> from lavra.data.tokenizers.prompt_ids import encode_pair
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> [tokenizer.decode(ids) for ids in encode_pair(tokenizer, "a ", "rosa")]
        ['a', ' rosa']
    """
    return encode_pairs(tokenizer, [(prompt, option)])[0]


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Return what `encode_pair` returns for each (prompt, option) of `pairs`, using every core."""
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
    """The ids of a prompt and of the options after it.

    Attributes:
        before: Ids of the prompt up to the token from which all options are scored.
        options: Ids of each option from that token on; empty where an option has no tokens.
        from_prompt: Number of tokens of the prompt, encoded by itself, that come after that token.
    """

    before: list[int]
    options: list[list[int]]
    from_prompt: int


def encode_options(tokenizer: Tokenizer, prompt: str, options: Sequence[str]) -> EncodedOptions:
    """Return the ids by which options after one prompt are compared.

    Each option is encoded with the prompt as one text. Usually that text begins with the prompt's own tokens, and the
    option is the rest. An option that completes the prompt's last word ("A pa" and "lavra") merges with it; then all
    options are scored from the last token that every such text shares with the prompt, so that their scores differ by
    as much as those of the whole texts.

    Args:
        tokenizer: Tokenizer of the model.
        prompt: The text before the options.
        options: The texts that are compared.
    """
    start = prompt.rstrip()
    before, *wholes = tokenizer.encode_many([start, *(prompt + option for option in options)])
    kept = min((_shared(before, whole) for whole in wholes), default=len(before))
    after = [[] if np.array_equal(whole, before) else whole[kept:].tolist() for whole in wholes]
    return EncodedOptions(before[:kept].tolist(), after, len(before) - kept)


def continuing(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text that continues another, without the space that some tokenizers put before every text."""
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


# The beginning-of-text token (BOS): when a model reads one before a text, and when it does not.


def bos_before(tokenizer: Tokenizer, *, empty: bool, bos: bool | None = None) -> list[int]:
    """Return the ids that a model reads before a prompt, usually one or none.

    The model's own tokenizer decides: Llama's begins every text with `<s>`, GPT-2's puts nothing before one. Only an
    empty prompt gets a token in any case, the one with which documents begin, because a model needs something to
    predict from.

    Args:
        tokenizer: Tokenizer of the model.
        empty: Whether the prompt has no tokens.
        bos: Whether to put beginning-of-text ids there, whatever the tokenizer does; None leaves it to the tokenizer.

    Raises:
        InputError: if the prompt is empty and `bos` is false.
    """
    if bos is None:
        bos = empty or bool(tokenizer.text_bos)
    if not bos and empty:
        raise InputError("the prompt is empty and --no-bos puts nothing before it", "give a prompt, or leave it out")
    return (tokenizer.text_bos or [tokenizer.document_bos]) if bos else []


def with_bos(tokenizer: Tokenizer, ids: Sequence[int], bos: bool | None = None) -> list[int]:
    """Return the ids of a prompt after those that a model reads before it; see `bos_before`."""
    return [*bos_before(tokenizer, empty=not len(ids), bos=bos), *ids]

"""Encodes a text, or two texts that a model reads together, with the tokens that the tokenizer puts around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from lavra.data.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextIds:
    """One text, or two, as the ids that an encoder reads.

    Attributes:
        tokens: (n,) int64 ids.
        second: Index from which the tokens are of the second kind (BERT's token type 1); 0 where there is one kind.
        cut: Whether something was left out to fit.
    """

    tokens: np.ndarray
    second: int = 0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class PairLayout:
    """What a tokenizer puts around two texts.

    Attributes:
        begin: Ids before the first text.
        middle: Ids between the two.
        end: Ids after the second.
        second_kind: Whether the second text and what follows it are tokens of the second kind.
    """

    begin: list[int]
    middle: list[int]
    end: list[int]
    second_kind: bool


def pair_layout(tokenizer: Tokenizer) -> PairLayout:
    """Return what the tokenizer's own post-processor puts around two texts.

    Where it puts nothing between them, the end-of-document token stands there, and after them.

    Args:
        tokenizer: Tokenizer of the model.
    """
    plain = tokenizer.inner.encode("a", add_special_tokens=False).ids
    encoding = tokenizer.inner.encode("a", "a")
    ids, size = encoding.ids, len(plain)
    places = [start for start in range(len(ids)) if ids[start : start + size] == plain]
    begin, end = tokenizer.around_source
    if len(places) != 2:
        return PairLayout(begin, [tokenizer.end_of_document], end, False)
    first, second = places
    middle = ids[first + size : second] or [tokenizer.end_of_document]
    after = ids[second + size :] or [tokenizer.end_of_document]
    return PairLayout(
        begin if ids[:first] == [tokenizer.end_of_document] else ids[:first], middle, after, max(encoding.type_ids) > 0
    )


def encode_two(tokenizer: Tokenizer, rows: Sequence[Sequence[str]], context: int | None = None) -> list[TextIds]:
    """Return the ids of each row of one or two texts, with the special tokens of the tokenizer's own post-processor.

    A single text that does not fit loses its end. Of two, the longer one is cut until both fit, as `transformers` does.

    Args:
        tokenizer: Tokenizer of the model.
        rows: One or two texts each.
        context: Largest number of tokens of a row; no limit by default.

    Examples:
        >>> from lavra.data.tokenizers.pairs import encode_two
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> [ids] = encode_two(tokenizer, [["a rosa", "o rosto"]])
        >>> tokenizer.decode(ids.tokens, special=True)
        'a rosa<|endoftext|>o rosto<|endoftext|>'
    """
    encoded = iter(tokenizer.encode_many(list(chain.from_iterable(rows))))
    begin, end = tokenizer.around_source
    pairs = pair_layout(tokenizer) if any(len(row) > 1 for row in rows) else None
    found = []
    for row in rows:
        first, second = next(encoded), next(encoded) if len(row) > 1 else None
        if second is None or pairs is None:
            room = len(first) if context is None else max(0, context - len(begin) - len(end))
            found.append(TextIds(np.array([*begin, *first[:room], *end], np.int64), 0, len(first) > room))
            continue
        around = len(pairs.begin) + len(pairs.middle) + len(pairs.end)
        one, two = rooms(len(first), len(second), None if context is None else max(0, context - around))
        before = [*pairs.begin, *first[:one], *pairs.middle]
        tokens = np.array([*before, *second[:two], *pairs.end], np.int64)
        cut = one < len(first) or two < len(second)
        found.append(TextIds(tokens, len(before) if pairs.second_kind else 0, cut))
    return found


def rooms(first: int, second: int, room: int | None) -> tuple[int, int]:
    """Return how many tokens of each of two texts are kept: the longer one is cut first.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text.
        room: Tokens of both together; None for no limit.

    Examples:
        >>> rooms(10, 4, 8), rooms(10, 9, 8), rooms(2, 3, None), rooms(9, 9, 7)
        ((4, 4), (4, 4), (2, 3), (3, 4))
    """
    if room is None or first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)

"""Layouts of noise: what a model reads and predicts where some positions of a text are hidden, and the way back.

Each layout has an inverse: what is read and what is predicted together give back the text. All ids are int64 arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavra.models.protocols import IGNORED


@dataclass(frozen=True, slots=True)
class Laid:
    """One text as a model reads and predicts it.

    Attributes:
        inputs: Ids that the decoder reads, (length,).
        targets: Id to predict at each of these positions, `IGNORED` where there is none, (length,).
        prefix: Number of positions from the first that see each other in both directions; 0 for a causal text.
        source: Ids that an encoder reads, (source length,); None for a decoder alone.
    """

    inputs: np.ndarray
    targets: np.ndarray
    prefix: int = 0
    source: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.inputs)


# Sentinels: every hidden span leaves one behind, and is predicted after it.


def with_sentinels(tokens: np.ndarray, hidden: np.ndarray, sentinels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a text with a sentinel in the place of each hidden span, and the spans, each after its sentinel.

    Args:
        tokens: Ids of the text, (length,).
        hidden: Which of them are hidden, (length,) bool.
        sentinels: Ids of the sentinels in their order, at least as many as there are hidden spans.

    Raises:
        ValueError: If there are more spans than sentinels.

    Examples:
        >>> text, hidden = np.array([5, 6, 7, 8]), np.array([False, True, True, False])
        >>> [part.tolist() for part in with_sentinels(text, hidden, [91, 92])]
        [[5, 91, 8], [91, 6, 7]]
    """
    begins = hidden & ~np.concatenate([[False], hidden[:-1]])
    number = np.cumsum(begins) - 1
    if begins.sum() > len(sentinels):
        raise ValueError(f"{begins.sum()} hidden spans have only {len(sentinels)} sentinels")
    marks = np.asarray(sentinels, np.int64)[number] if len(sentinels) else tokens
    corrupted = np.where(hidden, marks, tokens)[~hidden | begins]
    # A sentinel stands before the first token of its span: repeat these tokens, and write the sentinel into the first.
    answer = np.repeat(tokens[hidden], 1 + begins[hidden])
    places = np.flatnonzero(begins[hidden]) + np.arange(begins.sum())
    answer[places] = marks[begins]
    return corrupted.astype(np.int64), answer.astype(np.int64)


def without_sentinels(corrupted: np.ndarray, answer: np.ndarray, sentinels: Sequence[int]) -> np.ndarray:
    """Return the text of which `with_sentinels` made both parts.

    Args:
        corrupted: The text with sentinels in the places of hidden spans, (length,).
        answer: The hidden spans, each after its sentinel, (length,).
        sentinels: Ids of the sentinels.

    Examples:
        >>> without_sentinels(np.array([5, 91, 8]), np.array([91, 6, 7]), [91, 92]).tolist()
        [5, 6, 7, 8]
    """
    known = set(sentinels)
    spans: dict[int, list[int]] = {}
    span: list[int] = []
    for token in answer.tolist():
        if token in known:
            span = spans[token] = []
        else:
            span.append(token)
    found = [one for token in corrupted.tolist() for one in (spans.get(token, []) if token in known else [token])]
    return np.array(found, np.int64)


def one_sequence(first: int, corrupted: np.ndarray, answer: np.ndarray, end: int) -> Laid:
    """Return a text with holes, its hidden spans and an end as one sequence, for a decoder; the answer is learned.

    Args:
        first: Id that is read first: a mode token, or what stands before the text.
        corrupted: The text with sentinels, (length,).
        answer: The hidden spans, each after its sentinel, (length,).
        end: Id that ends the answer.
    """
    whole = np.concatenate([[first], corrupted, answer, [end]]).astype(np.int64)
    targets = whole[1:].copy()
    targets[: len(corrupted)] = IGNORED
    return Laid(whole[:-1], targets, len(corrupted) + 1)


def encoder_and_decoder(
    source: np.ndarray, answer: np.ndarray, end: int, shift: Sequence[int] | np.ndarray | None = None
) -> Laid:
    """Return a text with holes for an encoder, and its hidden spans with an end for a decoder.

    Args:
        source: What the encoder reads, (length,).
        answer: The hidden spans, each after its sentinel, (length,).
        end: Id that ends the answer.
        shift: What the decoder reads, as many ids as the answer and the end; None puts the end before the answer.
    """
    targets = np.concatenate([answer, [end]]).astype(np.int64)
    inputs = np.concatenate([[end], answer]) if shift is None else np.asarray(shift)
    return Laid(inputs.astype(np.int64), targets, source=source.astype(np.int64))


def restored(laid: Laid, sentinels: Sequence[int], around: tuple[int, int] = (1, 0)) -> np.ndarray:
    """Return the text that `one_sequence` or `encoder_and_decoder` laid out with sentinels.

    Args:
        laid: What is read and what is predicted.
        sentinels: Ids of the sentinels.
        around: Numbers of the ids that are read before the text and after it: one before for a decoder; for an encoder
            those of its tokenizer, and a mode token.
    """
    answer = laid.targets[laid.targets != IGNORED][:-1]
    read = laid.inputs[: laid.prefix] if laid.source is None else laid.source
    return without_sentinels(read[around[0] : len(read) - around[1]], answer, sentinels)


# The end of a text, which needs no sentinel: the prefix language model.


def prefix_and_rest(first: int, tokens: np.ndarray, hidden: np.ndarray) -> Laid:
    """Return a text whose end is predicted from its beginning, in one sequence.

    Args:
        first: Id that is read before the text.
        tokens: Ids of the text, (length,), at least one.
        hidden: Which of them are predicted, (length,) bool: those from some place on.
    """
    inputs = np.concatenate([[first], tokens[:-1]]).astype(np.int64)
    return Laid(inputs, np.where(hidden, tokens, IGNORED), int((~hidden).sum()) + 1)


def restored_prefix(laid: Laid) -> np.ndarray:
    """Return the text that `prefix_and_rest` laid out."""
    return np.concatenate([laid.inputs[1 : laid.prefix], laid.targets[laid.targets != IGNORED]])


# In place: hidden tokens are replaced where they stand.


def masked_next(first: int, tokens: np.ndarray, hidden: np.ndarray, mask: int) -> Laid:
    """Return a text whose hidden tokens are masks, each predicted at the position before it, with sight of both sides.

    A decoder predicts at each position what comes next, and so does this layout: that is the masked next-token
    prediction of GPT-BERT (Charpentier and Samuel 2024, arXiv 2410.24159). The last token is read at no position, and
    is therefore always predicted.

    Args:
        first: Id that is read before the text.
        tokens: Ids of the text, (length,), at least one.
        hidden: Which of them are hidden, (length,) bool.
        mask: Id that hides a token.
    """
    inputs = np.concatenate([[first], np.where(hidden, mask, tokens)[:-1]]).astype(np.int64)
    asked = hidden | (np.arange(len(tokens)) == len(tokens) - 1)
    return Laid(inputs, np.where(asked, tokens, IGNORED), len(tokens))


def restored_masked_next(laid: Laid) -> np.ndarray:
    """Return the text that `masked_next` laid out."""
    return restored_in_place(np.append(laid.inputs[1:], IGNORED), laid.targets)


def restored_in_place(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the text whose hidden tokens are predicted in their own places (`lavra.objectives.mlm`)."""
    return np.where(targets != IGNORED, targets, inputs)


def left_to_right(first: int, tokens: np.ndarray) -> Laid:
    """Return a text of which every token is predicted from those before it.

    Args:
        first: Id that is read before the text.
        tokens: Ids of the text, (length,), at least one.
    """
    return Laid(np.concatenate([[first], tokens[:-1]]).astype(np.int64), tokens.astype(np.int64))

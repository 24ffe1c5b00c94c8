"""Short completions of a text under a grammar, so that it can be closed before `max_new_tokens` is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer

FEW = 16
"""Largest number of allowed tokens that are tried one by one. Where more are allowed, they are judged by their text."""

_PREFERRED = ('"', "}", "]", "0", "1", "true", "null", "a", " ")
"""Texts that close a JSON value soonest, the best first: the end of a string, of an object or a list, a short value."""

_STRUCTURE = set('"{}[],:\\\ufffd')
"""Characters that may begin something in JSON that needs further tokens to end. The last one stands for a part of a
character."""


class Closing:
    """Finds completions of a text under a grammar, and allows only tokens after which a completion still fits.

    The search is greedy: it takes the tokens that the grammar forces, and otherwise a token that probably ends
    something. The completions found are therefore short, but not always the shortest.

    Args:
        tokenizer: Tokenizer of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._end, self._size = tokenizer.end_of_document, tokenizer.vocabulary_size
        texts = [tokenizer.decode([number]) for number in range(self._size)]
        found = [next((number for number, text in enumerate(texts) if text == wanted), -1) for wanted in _PREFERRED]
        self._preferred = [number for number in found if number >= 0]
        self._plain = np.array([bool(text) and not _STRUCTURE & set(text) for text in texts])
        lengths = tokenizer.token_lengths()
        self._by_length = np.argsort(np.where(lengths > 0, lengths, lengths.max() + 1), kind="stable")

    def way(self, matcher: Any, room: int) -> list[int] | None:
        """Return tokens that complete the text of a matcher, or None where no completion is found that fits.

        Args:
            matcher: Matcher of llguidance that has read the text so far; it is not changed.
            room: Largest number of tokens that the completion may have.
        """
        state, tokens = matcher.deep_copy(), []
        while not state.is_accepting():
            if state.is_error() or state.is_stopped():
                return None
            forced = state.compute_ff_tokens()
            following = forced or [self._shortest(allowed_of(state, self._size))]
            tokens += following
            if len(tokens) > room or following[0] < 0 or not state.consume_tokens(following):
                return None
        return tokens if len(tokens) <= room else None

    def allowed(self, matcher: Any, mask: NDArray[np.bool_], room: int) -> NDArray[np.bool_]:
        """Return the mask without the tokens after which the text could no longer be completed.

        Args:
            matcher: Matcher of llguidance that has read the text so far; it is not changed.
            mask: Whether the grammar allows each token next, (vocabulary,) bool.
            room: Number of tokens that may still be written, the next one included.
        """
        way = self.way(matcher, room)
        if not way:
            return mask  # the text is complete, or no completion is known
        kept = mask.copy()
        kept[self._end] = False
        candidates = np.flatnonzero(kept)
        if len(way) < room and len(candidates) > FEW:
            kept &= self._plain
            candidates = np.flatnonzero(kept)[:0]
        elif len(way) >= room:
            kept[:] = False
        for token in candidates if len(way) < room else ():
            after = matcher.deep_copy()
            kept[token] = after.consume_token(int(token)) and self.way(after, room - 1) is not None
        kept[way[0]] = True
        kept[self._end] = mask[self._end]
        return kept

    def _shortest(self, mask: NDArray[np.bool_]) -> int:
        """Return the id of the allowed token that ends something soonest, or -1 where no token is allowed."""
        mask[self._end] = False
        preferred = next((token for token in self._preferred if mask[token]), None)
        if preferred is not None:
            return preferred
        ordered = self._by_length[mask[self._by_length]]
        return int(ordered[0]) if len(ordered) else -1


def allowed_of(matcher: Any, vocabulary: int) -> NDArray[np.bool_]:
    """Return whether a matcher allows each token next, (vocabulary,) bool.

    Args:
        matcher: Matcher of llguidance; it is not changed.
        vocabulary: Number of tokens.
    """
    bits = np.frombuffer(matcher.deep_copy().compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")[:vocabulary].astype(np.bool_)

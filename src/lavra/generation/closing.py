"""The way out of a grammar: few tokens that complete a text, so that it can be closed before its room is used up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer

FEW = 16
"""Tokens of which each is looked at for a way out after it; where more may come, they are told by what they spell."""

_PREFERRED = ('"', "}", "]", "0", "1", "true", "null", "a", " ")
"""What closes soonest, the best first: in JSON a string ends, else an object or a list ends, else a value is short."""

_STRUCTURE = set('"{}[],:\\\ufffd')
"""What may begin something in JSON that takes further tokens to end; the last stands for a half character."""


class Closing:
    """Finds ways out of a grammar's states, and allows only tokens after which there still is one.

    The ways are not the shortest of all, but short: what must come comes, and else what is likely to end something.

    Args:
        tokenizer: the model's own.
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
        """Return tokens that complete the text of a matcher; None where none are found that are at most `room`."""
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
        """Return the mask without tokens after which the text could not be completed in the room that is left.

        Args:
            matcher: the state of the text.
            mask: (vocabulary,) bool: what the grammar allows.
            room: tokens that may still be written, the next one included.
        """
        way = self.way(matcher, room)
        if not way:
            return mask  # it is complete, or cannot be
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
        """Return the token that is likeliest to end something, -1 where there is none."""
        mask[self._end] = False
        preferred = next((token for token in self._preferred if mask[token]), None)
        if preferred is not None:
            return preferred
        ordered = self._by_length[mask[self._by_length]]
        return int(ordered[0]) if len(ordered) else -1


def allowed_of(matcher: Any, vocabulary: int) -> NDArray[np.bool_]:
    """Return (vocabulary,) bool: the tokens that a matcher of llguidance allows next."""
    bits = np.frombuffer(matcher.deep_copy().compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")[:vocabulary].astype(np.bool_)

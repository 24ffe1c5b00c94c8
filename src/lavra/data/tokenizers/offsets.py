"""Encodes texts as ids together with the characters that each token stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lavra.data.tokenizers.streaming import PIECE, Cut, cut_chunks
from lavra.data.tokenizers.tokenizer import Tokenizer

_BLANK = np.array([*(chr(code).isspace() for code in range(0x3001)), False])
"""Whether each character is white space, by its code point; the last stands for all beyond, of which none is."""


@dataclass(frozen=True, slots=True)
class PlacedTokens:
    """The tokens of a text, and where they stand in it.

    Attributes:
        ids: (n,) int64 ids, without the tokens that the tokenizer puts around a text.
        offsets: (n, 2) int64 index of the first character of each token, and the index after its last. Tokens of a
            byte-level tokenizer may share a character, and may begin with the space before a word.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def without_spaces(self, text: str) -> np.ndarray:
        """Return (n, 2) offsets that leave out white space at both ends of each token.

        A token of white space alone covers nothing: both of its offsets are the index after it.

        Args:
            text: The text.
        """
        places = np.arange(len(text) + 1)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        blank = _BLANK[np.minimum(codes, len(_BLANK) - 1)]
        # The next index that holds something, and the index after the last one that does.
        following = np.minimum.accumulate(np.where(np.append(blank, False), len(text), places)[::-1])[::-1]
        before = np.maximum.accumulate(np.where(np.insert(blank, 0, True), 0, places))
        ends = self.offsets[:, 1]
        starts = np.minimum(following[self.offsets[:, 0]], ends)
        return np.stack([starts, np.where(starts < ends, before[ends], ends)], 1)


def encode_with_offsets(tokenizer: Tokenizer, texts: Sequence[str]) -> list[PlacedTokens]:
    """Return the ids of each text, equal to those of `Tokenizer.encode_many`, with their offsets.

    Args:
        tokenizer: Tokenizer of the model.
        texts: The texts.

    Examples:
        >>> from lavra.data.tokenizers.offsets import encode_with_offsets
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=262)
        >>> [found] = encode_with_offsets(tokenizer, ["a rosa"])
        >>> found.offsets.tolist()[-1], found.without_spaces("a rosa").tolist()[-1]
        ([1, 6], [2, 6])
    """
    pieces = [list(_pieces(text, tokenizer.cut)) for text in texts]
    flat = [piece for several in pieces for _, piece in several]
    encodings = iter(tokenizer.inner.encode_batch(flat, add_special_tokens=False))
    # In models that know no other way, the spelling of the end-of-document token is left out, as in `encode_many`.
    spelled = tokenizer.end_of_document if tokenizer.ends_by_spelling else None
    found = []
    for several in pieces:
        ids, offsets = [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)]
        for start, _ in several:
            encoding = next(encodings)
            ids.append(np.array(encoding.ids, np.int64))
            offsets.append(np.array(encoding.offsets, np.int64).reshape(-1, 2) + start)
        all_ids, all_offsets = np.concatenate(ids), np.concatenate(offsets)
        if spelled is not None:
            kept = all_ids != spelled
            tokenizer.spellings_left_out += int((~kept).sum())
            all_ids, all_offsets = all_ids[kept], all_offsets[kept]
        found.append(PlacedTokens(all_ids, all_offsets))
    return found


def _pieces(text: str, cut: Cut | None) -> Iterator[tuple[int, str]]:
    """Yield the pieces in which a long text is encoded, each with the index of its first character."""
    start = 0
    for piece in cut_chunks(text, cut or Cut.BEFORE_SPACE) if len(text) > PIECE else (text,):
        start += not text.startswith(piece, start)  # the space at the cut was dropped
        yield start, piece
        start += len(piece)

"""Long texts in pieces, cut where no token lies across the cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

PIECE = 32768
"""Characters of a piece: large enough to cost nothing, small enough to keep every core busy."""


class Cut(Enum):
    """What becomes of the space at which a text is cut."""

    BEFORE_SPACE = "the piece after the cut begins with the space"
    AT_SPACE = "the space is dropped, for tokenizers that put one before every piece themselves"


_SPACE = re.compile(r"(?<=\S) (?=\S)")
_LINE = re.compile(r"(?<=[^\W\d_])\r?\n(?=[^\W\d_])|(?<=[.,;:!?])\r?\n(?=[^\W\d_])")


def cut_pieces(text: str, cut: Cut, size: int = PIECE) -> Iterator[str]:
    """Yield `text` in pieces of at most `size` characters (one more at a space that is dropped).

    The cut is at the last single space, which is a border for every tokenizer in use; else after a line end before a
    letter; else, in text without either for `size` characters, anywhere.
    """
    start = 0
    while len(text) - start > size:
        low, high = start + size // 2, start + size
        space = _last(_SPACE, text, low, high)
        if space is not None:
            end, following = space.start(), space.end() if cut is Cut.AT_SPACE else space.start()
        else:
            line = _last(_LINE, text, low, high)
            end = following = line.end() if line is not None else high
        yield text[start:end]
        start = following
    yield text[start:]


def cuts(text: str, cut: Cut) -> Iterator[tuple[str, str]]:
    """Yield the two parts of `text` for every space at which `cut_pieces` may cut it."""
    for space in _SPACE.finditer(text):
        yield text[: space.start()], text[space.end() if cut is Cut.AT_SPACE else space.start() :]


def _last(pattern: re.Pattern[str], text: str, low: int, high: int) -> re.Match[str] | None:
    """Return the last match that starts in [low, high), looking at the last thousand characters first."""
    for begin in (max(low, high - 1000), low):
        found = list(pattern.finditer(text, begin, high))
        if found:
            return found[-1]
    return None

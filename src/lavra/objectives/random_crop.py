"""Random crops: a window of each long text while the model learns, and how a text is cut to a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lavra.core.errors import InputError
from lavra.objectives.base import MEASURED
from lavra.objectives.wrapping import Wrapper, stream_of

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Batch

_NUMBER = 1
"""Number of this wrapper's streams."""


@dataclass(frozen=True, eq=False)
class RandomCrop(Wrapper):
    """Reads a random window of each text that is longer than a window, while the model learns.

    Texts are cropped before the objective inside encodes them. The special tokens at both ends are kept. A pair of
    texts, and a text with special tokens in its middle, are left whole. What is measured is the whole text.

    Attributes:
        special: (vocabulary,) bool; the tokens that are no text.
        length: Tokens of a window, with the special tokens at both ends; 0 is the objective inside, to the bit.

    Raises:
        InputError: If the length is negative.
    """

    special: np.ndarray = field(repr=False)
    length: int = 0

    def __post_init__(self) -> None:
        if self.length < 0:
            raise InputError(f"a window of {self.length} tokens is not possible", "choose 0 or more")

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        """Return the batch of the windows.

        Args:
            rows: Rows of texts with `tokens`: sequences of them, or rows with `examples`.
            streams: Function from a place in `rows` to the random generator of that row.
            progress: Share of the run that is done; with `MEASURED` nothing is cropped.
        """
        if self.length and progress < MEASURED:
            rows = [
                cropped(row, self.length, self.special, stream_of(streams, place, _NUMBER).integers)
                for place, row in enumerate(rows)
            ]
        return self.inner.encode(rows, streams, progress)


def from_the_beginning(_: int) -> int:
    """Return 0, as the place where a window begins; for `cropped`."""
    return 0


def cropped(row: Any, length: int, special: np.ndarray, begin: Callable[[int], Any]) -> Any:
    """Return a row whose long texts are cut to a window.

    Args:
        row: Texts with `tokens`: a sequence of them, or a row with `examples`.
        length: Tokens of a window, with the special tokens at both ends of the text.
        special: (vocabulary,) bool; the tokens that are no text.
        begin: Function from the number of possible windows of a text to the one that is taken.

    Examples:
        >>> from lavra.objectives.classify import LabelledText
        >>> special = np.array([True, False, False, False, False])
        >>> [text] = cropped([LabelledText(0, np.array([0, 1, 2, 3, 4, 0]), 1)], 4, special, lambda windows: 1)
        >>> text.tokens.tolist()
        [0, 2, 3, 0]
    """

    def crop(text: Any) -> Any:
        if getattr(text, "second", 0) or getattr(text, "labels", {}).get("second_type_from"):
            return text  # the first of two texts has an end that would be lost
        kept = _window(text.tokens, length, special, begin)
        if kept is None:
            return text
        beside = {"learned": text.learned[kept]} if hasattr(text, "learned") else {}
        return replace(text, tokens=text.tokens[kept], **beside)

    if hasattr(row, "examples"):
        return replace(row, examples=tuple(crop(text) for text in row.examples))
    return [crop(text) for text in row]


def _window(tokens: np.ndarray, length: int, special: np.ndarray, begin: Callable[[int], Any]) -> np.ndarray | None:
    """Return the places of the tokens of a window, None for a text that stays whole."""
    if len(tokens) <= length:
        return None
    text = np.flatnonzero(~special[tokens])
    if not len(text):
        return None
    first, last = int(text[0]), int(text[-1]) + 1
    room = length - first - (len(tokens) - last)
    if room < 1 or len(text) < last - first:
        return None
    start = first + int(begin(last - first - room + 1))
    return np.r_[0:first, start : start + room, last : len(tokens)]

"""Token ids to text as they come: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lavra.data.tokenizer import Tokenizer

UNFINISHED = "\ufffd"
"""What decoding gives for bytes that are no whole character."""

LEFT_CONTEXT = 8
"""Tokens of the prompt that are decoded along: some tokenizers' text depends on the token before it."""


class TextAssembler:
    """Assembles the text of one continuation from its tokens.

    Args:
        tokenizer: to decode with.
        prompt: ids that come before; their text is not given out.
        stop: the first of these strings to be complete ends the text and is cut off, wherever tokens end.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids = list(prompt[-LEFT_CONTEXT:])
        self._known = len(self._ids)  # ids whose text is complete
        self._text = tokenizer.decode(self._ids) if self._ids else ""
        self._held = ""  # text that may be the beginning of a stop string

    def add(self, token: int) -> str:
        """Take the next token and return the text that is certain now: possibly none, possibly that of several."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(UNFINISHED):
            return ""
        new = text[len(self._text) :]
        self._ids = self._ids[self._known :]
        self._known = len(self._ids)
        self._text = self._tokenizer.decode(self._ids)
        return self._release(new)

    def finish(self) -> str:
        """Return the text that was held back, without a half character at its end."""
        rest = self._tokenizer.decode(self._ids).rstrip(UNFINISHED)[len(self._text) :]
        certain = self._release(rest)
        held, self._held = self._held, ""
        return certain + held

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        complete = min((text.find(stop) + len(stop) for stop in self._stop if stop in text), default=0)
        if complete:
            self.stopped, self._held = True, ""
            return text[: min(text.find(stop) for stop in self._stop if stop in text[:complete])]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest proper beginning of `stop` that `text` ends with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)

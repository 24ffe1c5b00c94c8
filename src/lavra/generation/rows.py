"""The rows that are decoded: what was given, what was made, and the text as it comes, whole characters only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from lavra.config.generation import GenerateOptions

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.generation.prompts import Prompt

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


# The rows that are decoded: what was given, what was made, and the text so far.

Reason = Literal["end", "stop", "length", "unfinished"]
"""Why a text ended: the model ended the document, a stop string came, or `max_new_tokens` were made; with a constraint
that the text does not satisfy, because there was no room or no token for the rest of it, it is unfinished."""


@dataclass(slots=True)
class Row:
    """Tokens that the model reads and adds to.

    Attributes:
        ids: the prompt, with what is read before it, and the new tokens; of an encoder-decoder what its decoder begins
            with, and the new tokens.
        prompt_length: how many of `ids` were given.
        begin: first of `ids` that the model still sees; moves on when the context is full.
        source: what the encoder of an encoder-decoder reads; empty for decoders.
        forced: how many of the given `ids` are the text's own already: a length counts them.
        marks: how many of the first `ids` stand for no text.
    """

    ids: list[int]
    prompt_length: int
    begin: int = field(default=0, kw_only=True)
    source: tuple[int, ...] = field(default=(), kw_only=True)
    forced: int = field(default=0, kw_only=True)
    marks: int = field(default=1, kw_only=True)

    @property
    def text_ids(self) -> list[int]:
        """All tokens of the text, those of the prompt included."""
        return self.ids[self.marks :]

    @property
    def new(self) -> list[int]:
        """The new tokens."""
        return self.ids[self.prompt_length :]

    @property
    def made(self) -> int:
        """Number of new tokens."""
        return len(self.ids) - self.prompt_length

    @property
    def window(self) -> list[int]:
        """What the model sees of the row."""
        return self.ids[self.begin :]

    def slide(self, context: int) -> bool:
        """Where the row outgrew the context, go on from the last half of it; return whether it did."""
        if len(self.ids) - self.begin <= context:
            return False
        self.begin = len(self.ids) - max(1, context // 2)
        return True


@dataclass(slots=True)
class Continuation(Row):
    """One row while it grows into one text.

    Attributes:
        draws: one uniform random number for each token that may be made.
        assembler: turns its new tokens into text.
        pieces: the new text so far.
        reason: why it ended; None while it grows.
    """

    draws: NDArray[Any]
    assembler: TextAssembler
    pieces: list[str] = field(default_factory=list)
    reason: Reason | None = None

    @classmethod
    def start(cls, tokenizer: Tokenizer, prompt: Prompt, draws: NDArray[Any], options: GenerateOptions) -> Continuation:
        """Begin a row that continues a prompt."""
        assembler = TextAssembler(tokenizer, prompt.before, options.stop)
        row = cls(list(prompt.ids), len(prompt.ids), draws, assembler, **prompt.as_row)
        row.reason = None if options.max_new_tokens else "length"
        return row

    def take(self, token: int, end_of_document: int, longest: int) -> str:
        """Append a token, note whether it ends the row, and return the text that is certain now."""
        if token == end_of_document:
            self.reason = "end"
            piece = self.assembler.finish()
        else:
            self.ids.append(token)
            piece = self.assembler.add(token)
            if self.made == longest:
                self.reason = "length"
                piece += self.assembler.finish()
        if self.assembler.stopped:
            self.reason = "stop"
        self.pieces.append(piece)
        return piece


def aligned_right(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return rows of the length of the longest, with -1 on the left of shorter ones."""
    longest = max(map(len, rows))
    return [[-1] * (longest - len(row)) + list(row) for row in rows]

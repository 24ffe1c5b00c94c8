"""The rows that are decoded: their given and new tokens, and their text as it grows, in whole characters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from lavra.config.generation import GenerateOptions

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.generation.prompts import Prompt

UNFINISHED = "\ufffd"
"""The replacement character, which decoding gives for bytes that are not a whole character."""

LEFT_CONTEXT = 8
"""Number of tokens of the prompt that are decoded together with the new ones, because in some tokenizers the text of a
token depends on the tokens before it."""


class TextAssembler:
    """Assembles the text of one continuation from its tokens (incremental detokenisation).

    Args:
        tokenizer: Tokenizer of the model.
        prompt: Ids of the tokens before the continuation; their text is not returned.
        stop: Stop strings. The first one to be complete ends the text and is cut off, even in the middle of a token.

    Attributes:
        stopped: Whether a stop string ended the text.

    Examples:
        The second byte of "ã" completes the character:

        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> assembler = TextAssembler(Tokenizer.train(["abc"], 257))
        >>> [assembler.add(token) for token in Tokenizer.train(["abc"], 257).encode("aã")]
        ['a', '', 'ã']
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
        """Take the next token and return the text that became certain, which may be empty or that of several tokens.

        Args:
            token: Id of the next token.
        """
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
        """Return the text that was held back, without an incomplete character at its end."""
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


def stop_strings(tokenizer: Tokenizer, options: GenerateOptions) -> tuple[str, ...]:
    """Return the strings that end a text: those that were asked for, and those of the settings of the model.

    Args:
        tokenizer: Tokenizer of the model.
        options: Options of generation.
    """
    return (*options.stop, *tokenizer.stop_strings)


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest proper prefix of `stop` with which `text` ends."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


Reason = Literal["end", "stop", "length", "unfinished"]
"""Why a text ended: the model ended the document, a stop string occurred, or `max_new_tokens` were made. A text is
unfinished where it does not satisfy its constraint, because no token or too few tokens were left for the rest."""


@dataclass(slots=True)
class Row:
    """A row of tokens that the model reads and extends.

    Attributes:
        ids: For a decoder, the special tokens before the prompt, the prompt and the new tokens. For an encoder-decoder,
            the decoder start tokens and the new tokens.
        prompt_length: Number of tokens at the beginning of `ids` that were given.
        begin: Place in `ids` of the first token that the model still sees. It moves on when the context is full.
        source: Ids that the encoder of an encoder-decoder reads; empty for a decoder.
        forced: Number of given tokens that already belong to the new text; the length of the text counts them.
        marks: Number of tokens at the beginning of `ids` that stand for no text.
    """

    ids: list[int]
    prompt_length: int
    begin: int = field(default=0, kw_only=True)
    source: tuple[int, ...] = field(default=(), kw_only=True)
    forced: int = field(default=0, kw_only=True)
    marks: int = field(default=1, kw_only=True)

    @property
    def text_ids(self) -> list[int]:
        """Ids of all tokens of the text, those of the prompt included."""
        return self.ids[self.marks :]

    @property
    def new(self) -> list[int]:
        """Ids of the new tokens."""
        return self.ids[self.prompt_length :]

    @property
    def made(self) -> int:
        """Number of new tokens."""
        return len(self.ids) - self.prompt_length

    @property
    def window(self) -> list[int]:
        """Ids of the tokens that the model still sees."""
        return self.ids[self.begin :]

    def slide(self, context: int) -> bool:
        """Shorten the window to half the context where it outgrew the context, and return whether it did.

        Dropping half at once means that the window is read again only once in half a context, and not for every token.

        Args:
            context: Largest number of tokens that the model reads.

        Examples:
            >>> row = Row([1, 2, 3, 4, 5], prompt_length=2)
            >>> row.slide(context=4), row.window
            (True, [4, 5])
        """
        if len(self.ids) - self.begin <= context:
            return False
        self.begin = len(self.ids) - max(1, context // 2)
        return True


@dataclass(slots=True)
class Continuation(Row):
    """A row that grows into one text.

    Attributes:
        draws: A uniform random number from 0 to 1 for each token that may be made, (max_new_tokens,).
        assembler: Assembler of the text of the new tokens.
        pieces: The new text so far, in pieces.
        reason: Why the text ended; None while it grows.
    """

    draws: NDArray[Any]
    assembler: TextAssembler
    pieces: list[str] = field(default_factory=list)
    reason: Reason | None = None

    @classmethod
    def start(cls, tokenizer: Tokenizer, prompt: Prompt, draws: NDArray[Any], options: GenerateOptions) -> Continuation:
        """Return a new row that continues a prompt.

        Args:
            tokenizer: Tokenizer of the model.
            prompt: Prompt as the model reads it.
            draws: A uniform random number from 0 to 1 for each token that may be made, (max_new_tokens,).
            options: Options of generation.
        """
        assembler = TextAssembler(tokenizer, prompt.before, stop_strings(tokenizer, options))
        row = cls(list(prompt.ids), len(prompt.ids), draws, assembler, **prompt.as_row)
        row.reason = None if options.max_new_tokens else "length"
        return row

    def take(self, token: int, end_ids: Collection[int], longest: int) -> str:
        """Append a token, record whether it ends the row, and return the text that became certain.

        Args:
            token: Id of the token.
            end_ids: Ids that end a text, which are not appended.
            longest: Largest number of new tokens.
        """
        if token in end_ids:
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
    """Return rows of equal length, padded with -1 on the left.

    Args:
        rows: Ids of each row, at least one row.

    Examples:
        >>> aligned_right([[1], [2, 3]])
        [[-1, 1], [2, 3]]
    """
    longest = max(map(len, rows))
    return [[-1] * (longest - len(row)) + list(row) for row in rows]

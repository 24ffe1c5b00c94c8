"""How a text becomes the ids that an encoder reads: its prompt, the tokens around it, and where it is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.vectors.protocols import TextKind

KINDS: tuple[TextKind, ...] = ("text", "query", "passage")
"""The kinds of texts."""

Prompts = Mapping[TextKind, str]
"""What is put before the texts of each kind; a kind that is not there has no prompt."""


@dataclass
class Cut:
    """What was left out of texts that are longer than the model reads.

    Attributes:
        texts: Number of texts that were read.
        cut: Number of them that lost their end.
        tokens: Number of tokens of all texts.
        left_out: Number of tokens that were left out.
    """

    texts: int = 0
    cut: int = 0
    tokens: int = 0
    left_out: int = 0

    def summary(self, longest: int) -> str:
        """Return a sentence about what was left out; empty where nothing was.

        Args:
            longest: Most tokens of a text that the model reads.

        Examples:
            >>> Cut(texts=10, cut=2, tokens=1000, left_out=50).summary(128)
            '2 of 10 texts are longer than the 128 tokens that the model reads; their ends were left out, 5.0% of all \
tokens'
        """
        if not self.cut:
            return ""
        share = self.left_out / max(1, self.tokens)
        return (
            f"{self.cut:,} of {counted(self.texts, 'text')} are longer than the {longest:,} tokens that the model "
            f"reads; their ends were left out, {share:.1%} of all tokens"
        )


@dataclass
class TextReading:
    """Turns texts into ids.

    Attributes:
        tokenizer: The tokenizer of the model.
        longest: Most tokens of a text, with those around it.
        begin: Ids before each text.
        end: Ids after each text.
        prompts: What is put before the texts of each kind.
        cut: What was left out so far.
    """

    tokenizer: Tokenizer
    longest: int
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    prompts: Prompts = field(default_factory=dict)
    cut: Cut = field(default_factory=Cut)

    def __post_init__(self) -> None:
        if self.room < 1:
            raise InputError(
                f"a model that reads {counted(self.longest, 'token')} has no room for a text between the "
                f"{len(self.begin) + len(self.end)} tokens around it",
                "choose a longer limit",
            )

    @property
    def room(self) -> int:
        """Number of tokens of a text without those around it."""
        return self.longest - len(self.begin) - len(self.end)

    def ids(self, texts: Sequence[str], kind: TextKind) -> list[np.ndarray]:
        """Return the ids of each text with its prompt, (tokens,) int64 each and at least one.

        A text that is too long loses its end, which is counted.

        Args:
            texts: The texts.
            kind: What they are.
        """
        prompt = self.prompts.get(kind, "")
        found = []
        for ids in self.tokenizer.encode_many([prompt + text for text in texts] if prompt else texts):
            left_out = max(0, len(ids) - self.room)
            self.cut.texts += 1
            self.cut.cut += left_out > 0
            self.cut.tokens += len(ids)
            self.cut.left_out += left_out
            around = np.array([*self.begin, *ids[: self.room], *self.end], np.int64)
            found.append(around if len(around) else np.array([self.tokenizer.end_of_document]))
        return found

    def prompt_tokens(self, kind: TextKind) -> int:
        """Return how many tokens stand before the text itself: those before every text, and the prompt.

        Args:
            kind: What the text is.
        """
        prompt = self.prompts.get(kind, "")
        return len(self.begin) + len(self.tokenizer.encode(prompt)) if prompt else 0

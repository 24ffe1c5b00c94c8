"""A prompt as the model reads it: the beginning of a document, or what an encoder reads before its decoder writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lavra.core.errors import InputError
from lavra.data.tokenizers.prompt_ids import with_bos

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.contract import CachedModel


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model reads before it writes.

    Attributes:
        ids: for a decoder the prompt, after a beginning-of-text token where it is read with one; for an encoder-decoder
            the tokens that its decoder begins with.
        source: for an encoder-decoder the prompt, as its encoder reads it; empty for decoders.
        forced: tokens at the end of `ids` that are the text's own already; a length counts them.
        marks: tokens at the beginning of `ids` that stand for no text: as a rule one or none.
    """

    ids: list[int]
    source: tuple[int, ...] = ()
    forced: int = 0
    marks: int = 1

    @property
    def before(self) -> list[int]:
        """The ids that the new text follows directly, as text: none where a decoder begins anew."""
        return [] if self.source else self.ids[self.marks :]

    @property
    def as_row(self) -> dict[str, Any]:
        """What a row that continues the prompt has to know besides its ids."""
        return {"source": self.source, "forced": self.forced, "marks": self.marks}

    @property
    def size(self) -> int:
        """Tokens that are read."""
        return len(self.ids) + len(self.source)


def writes_from_source(model: object) -> bool:
    """Say whether a model reads its prompts with an encoder."""
    return bool(getattr(model, "beginning", ()))


def decoder_prompt(tokenizer: Tokenizer, ids: Sequence[int], bos: bool | None = None) -> Prompt:
    """Return the prompt of a decoder from the ids of its text; see `lavra.data.tokenizers.prompt_ids.bos_before`."""
    begun = with_bos(tokenizer, ids, bos)
    return Prompt(begun, marks=len(begun) - len(ids))


def encode_prompt(
    model: CachedModel,
    tokenizer: Tokenizer,
    text: str,
    long_prompt: Literal["refuse", "window"],
    bos: bool | None = None,
) -> Prompt:
    """Return a prompt as the model reads it.

    An encoder reads the text with the special tokens that the tokenizer puts around one (T5: an end after it; BART: a
    beginning and an end), with an end-of-document token after it where the tokenizer puts none.

    Args:
        model: with a cache.
        tokenizer: the model's own.
        text: the prompt.
        bos: whether a decoder reads a beginning-of-text token before it; None as the tokenizer does it, and before an
            empty prompt in any case.
        long_prompt: "refuse" what the model cannot read; "window" reads a decoder's prompt later, when its beginning
            slides out, and the beginning of an encoder's.

    Raises:
        InputError: if the prompt does not fit, or is empty and there is nothing to write from.
    """
    if writes_from_source(model):
        if not text.strip():
            raise InputError(
                "the prompt is empty, and an encoder-decoder writes from what it reads", "give a text as --prompt"
            )
        return source_prompt(model, tokenizer, text, long_prompt)
    read = decoder_prompt(tokenizer, tokenizer.encode(text), bos)
    if len(read.ids) > model.context and long_prompt == "refuse":
        raise _too_long(text, len(read.before), model.context - read.marks)
    return read


def source_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids that an encoder reads for a text, special tokens included."""
    before, after = tokenizer.around_source
    return [*before, *tokenizer.encode(text), *after]


def source_prompt(
    model: CachedModel, tokenizer: Tokenizer, text: str, long_prompt: Literal["refuse", "window"]
) -> Prompt:
    """Return the prompt of an encoder-decoder; as `encode_prompt`, but an empty text is one too.

    Raises:
        InputError: if it is longer than the encoder reads, and is to be refused then.
    """
    ids = source_ids(tokenizer, text)
    most = model.context
    if len(ids) > most:
        if long_prompt == "refuse":
            raise _too_long(text, len(ids), most)
        ids = [*ids[: most - 1], ids[-1]]  # the last is what the tokenizer puts after a text
    return Prompt(list(getattr(model, "beginning", ())), tuple(ids), getattr(model, "forced", 0))


def _too_long(text: str, tokens: int, most: int) -> InputError:
    return InputError(
        f"the prompt {text[:40]!r}… has {tokens} tokens; this model reads {most} at most",
        "shorten the prompt, say --long-prompt window to read a part of it, or train with a longer context",
    )

"""A prompt as the model reads it: the beginning of a document for a decoder, or the source text for an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lavra.core.errors import InputError
from lavra.data.tokenizers.prompt_ids import with_bos

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.protocols import CachedModel


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens that a model reads before it writes.

    Attributes:
        ids: For a decoder, the prompt after a beginning-of-text token, where it has one. For an encoder-decoder, the
            decoder start tokens.
        source: For an encoder-decoder, the prompt as its encoder reads it; empty for a decoder.
        forced: Number of tokens at the end of `ids` that already belong to the new text, such as a forced language
            token; the length of the text counts them.
        marks: Number of tokens at the beginning of `ids` that stand for no text, usually one or none.

    Examples:
        >>> Prompt([256, 97, 98]).before
        [97, 98]
    """

    ids: list[int]
    source: tuple[int, ...] = ()
    forced: int = 0
    marks: int = 1

    @property
    def before(self) -> list[int]:
        """Ids of the text that the new text follows directly; none for an encoder-decoder, whose text begins anew."""
        return [] if self.source else self.ids[self.marks :]

    @property
    def as_row(self) -> dict[str, Any]:
        """Fields of a `Row` that continues the prompt, besides its ids."""
        return {"source": self.source, "forced": self.forced, "marks": self.marks}

    @property
    def size(self) -> int:
        """Number of tokens that are read."""
        return len(self.ids) + len(self.source)


def writes_from_source(model: object) -> bool:
    """Return whether a model reads its prompts with an encoder.

    Args:
        model: Model with a key-value cache.
    """
    return bool(getattr(model, "decoder_start_ids", ()))


def decoder_prompt(tokenizer: Tokenizer, ids: Sequence[int], bos: bool | None = None) -> Prompt:
    """Return the prompt of a decoder.

    Args:
        tokenizer: Tokenizer of the model.
        ids: Ids of the text of the prompt.
        bos: Whether a beginning-of-text token is read before the prompt; None leaves that to the tokenizer, see
            `lavra.data.tokenizers.prompt_ids.bos_before`.
    """
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

    An encoder reads the text with the special tokens that its tokenizer puts around texts: T5 puts an end token after
    a text, and BART puts a start token before it and an end token after it. Where the tokenizer puts none, an
    end-of-document token follows the text.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        text: Text of the prompt.
        long_prompt: "refuse" raises an error for a prompt that does not fit the context. With "window" a decoder reads
            the end of such a prompt, and an encoder its beginning.
        bos: Whether a decoder reads a beginning-of-text token before the prompt; None leaves that to the tokenizer. An
            empty prompt gets one in any case.

    Raises:
        InputError: If the prompt does not fit and is to be refused, or it is empty and the model is an encoder-decoder.
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
    """Return the ids that an encoder reads for a text, special tokens included.

    Args:
        tokenizer: Tokenizer of the model.
        text: Text to encode.
    """
    before, after = tokenizer.around_source
    return [*before, *tokenizer.encode(text), *after]


def source_prompt(
    model: CachedModel, tokenizer: Tokenizer, text: str, long_prompt: Literal["refuse", "window"]
) -> Prompt:
    """Return the prompt of an encoder-decoder; unlike `encode_prompt`, it accepts an empty text.

    Args:
        model: Encoder-decoder with a key-value cache.
        tokenizer: Tokenizer of the model.
        text: Text that the encoder reads.
        long_prompt: "refuse" raises an error for a text that does not fit the context; "window" reads its beginning.

    Raises:
        InputError: If the text does not fit and is to be refused.
    """
    ids = source_ids(tokenizer, text)
    limit = model.context
    if len(ids) > limit:
        if long_prompt == "refuse":
            raise _too_long(text, len(ids), limit)
        ids = [*ids[: limit - 1], ids[-1]]  # the last is what the tokenizer puts after a text
    return Prompt(list(getattr(model, "decoder_start_ids", ())), tuple(ids), getattr(model, "forced", 0))


def _too_long(text: str, tokens: int, limit: int) -> InputError:
    return InputError(
        f"the prompt {text[:40]!r}… has {tokens} tokens; this model reads {limit} at most",
        "shorten the prompt, say --long-prompt window to read a part of it, or train with a longer context",
    )

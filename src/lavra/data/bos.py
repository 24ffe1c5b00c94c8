"""The beginning-of-text token: when a model reads one before a text, and when it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lavra.core.errors import InputError

if TYPE_CHECKING:
    from lavra.data.tokenizer import Tokenizer


def bos_before(tokenizer: Tokenizer, *, empty: bool, bos: bool | None = None) -> list[int]:
    """Return the ids that a model reads before a prompt: as a rule one or none.

    The model's own tokenizer decides: Llama's begins every text with `<s>`, GPT-2's puts nothing before one. Only an
    empty prompt needs a token in any case, because a model predicts from something: the one that documents begin with.

    Args:
        tokenizer: of the model.
        empty: whether the prompt has no tokens.
        bos: True or False to put one there, or none, whatever the tokenizer does.

    Raises:
        InputError: if the prompt is empty and is to begin with nothing.
    """
    if bos is None:
        bos = empty or bool(tokenizer.text_bos)
    if not bos and empty:
        raise InputError("the prompt is empty and --no-bos puts nothing before it", "give a prompt, or leave it out")
    return (tokenizer.text_bos or [tokenizer.document_bos]) if bos else []


def with_bos(tokenizer: Tokenizer, ids: Sequence[int], bos: bool | None = None) -> list[int]:
    """Return the ids of a prompt with what a model reads before them; see `bos_before`."""
    return [*bos_before(tokenizer, empty=not len(ids), bos=bos), *ids]

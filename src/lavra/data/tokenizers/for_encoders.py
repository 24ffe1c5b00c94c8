"""The special tokens that an encoder needs beside those of a decoder: one before every text, and a mask."""

from __future__ import annotations

from lavra.data.tokenizers.extension import with_special_tokens
from lavra.data.tokenizers.tokenizer import ENCODER_TOKENS, Tokenizer

FIRST, MASK = ENCODER_TOKENS["cls_token"], ENCODER_TOKENS["mask_token"]
"""The token before every text, and the mask, in vocabularies that lavra makes for encoders."""

MASKS = ("[MASK]", MASK)
"""Names of the mask token: the first is that of BERT, the second that of RoBERTa and of lavra."""


def has_mask(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer has a mask token.

    Args:
        tokenizer: Any tokenizer.
    """
    return any(tokenizer.inner.token_to_id(name) is not None for name in MASKS)


def for_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the tokens that an encoder needs; what it has already stays as it is.

    Where there is no mask token, it gets one. Where nothing is put before a text but the end-of-document token, which
    is for decoders, a token of its own is put before every text, and the end-of-document token after it, and between
    and after two texts. New tokens get the last ids.

    Args:
        tokenizer: The tokenizer; all of its ids stay.

    Examples:
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = for_encoder(Tokenizer.train(["a rosa"], vocabulary_size=257))
        >>> tokenizer.decode(tokenizer.inner.encode("a rosa").ids, special=True)
        '<cls>a rosa<|endoftext|>'
    """
    before, _ = tokenizer.around_source
    names = ([] if before else [FIRST]) + ([] if has_mask(tokenizer) else [MASK])
    if not names:
        return tokenizer
    extended = with_special_tokens(tokenizer, names, tokenizer.end_of_document_token)
    if not before:
        _put_around_texts(extended)
    return extended


def _put_around_texts(tokenizer: Tokenizer) -> None:
    """Make a tokenizer put its first token before every text, and its end-of-document token after it."""
    from tokenizers import processors

    inner, end = tokenizer.inner, tokenizer.end_of_document_token
    marks = [(name, inner.token_to_id(name)) for name in (FIRST, end)]
    inner.post_processor = processors.TemplateProcessing(f"{FIRST} $A {end}", f"{FIRST} $A {end} $B {end}", marks)

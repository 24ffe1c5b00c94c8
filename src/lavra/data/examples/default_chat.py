"""A chat template for models that have none: one that was trained from nothing, or on plain text only."""

from __future__ import annotations

from lavra.data.examples.chats import ChatTemplate
from lavra.data.tokenizers.extension import with_special_tokens
from lavra.data.tokenizers.tokenizer import Tokenizer

TURN = "<|im_start|>"
"""The token before a turn, in tokenizers that are trained for chats."""

_KNOWN = (TURN, "<start_of_turn>", "<|turn>")
_PLAIN = "### "

_TEXT = (
    "{% for message in messages %}{{ '[TURN]' + message['role'] + '\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[TURN]assistant\\n' }}{% endif %}"
)


def default_chat_template(tokenizer: Tokenizer) -> ChatTemplate:
    """Return a template for a tokenizer: each turn ends with the token that ends a text.

    A turn begins with the token that the tokenizer has for it, else with `### `; since no text becomes the token that
    ends the turn before, no turn can pretend to be another one's.
    """
    known = tokenizer.inner.get_vocab(with_added_tokens=True)
    turn = next((name for name in _KNOWN if name in known), _PLAIN)
    tokens = {"eos_token": tokenizer.end_of_document_token}
    return ChatTemplate(_TEXT.replace("[TURN]", turn), tokens, "lavra's own chat template")


def with_turn_token(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with a special token that begins a turn, as a new last id."""
    return with_special_tokens(tokenizer, [TURN], tokenizer.end_of_document_token)

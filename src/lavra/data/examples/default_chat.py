"""A chat template for models that have none, because they were trained from scratch or on plain text only."""

from __future__ import annotations

from lavra.data.examples.chats import ChatTemplate
from lavra.data.tokenizers.extension import with_special_tokens
from lavra.data.tokenizers.tokenizer import Tokenizer

TURN = "<|im_start|>"
"""The token that begins a turn, in tokenizers that are trained for chats."""

# The tokens that begin a turn in published tokenizers, and the text that does so where there is none of them.
_KNOWN = (TURN, "<start_of_turn>", "<|turn>")
_PLAIN = "### "

_TEXT = (
    "{% for message in messages %}{{ '[TURN]' + message['role'] + '\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[TURN]assistant\\n' }}{% endif %}"
)


def default_chat_template(tokenizer: Tokenizer) -> ChatTemplate:
    """Return a chat template for a tokenizer, in which each turn ends with the end-of-document token.

    A turn begins with the token that the tokenizer has for it, else with `### `. No text becomes the end-of-document
    token, so that the text of a turn cannot contain another turn.

    Examples:
        >>> from lavra.data.examples.default_chat import default_chat_template
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> template = default_chat_template(Tokenizer.train(["a"], vocabulary_size=257))
        >>> print(template.text_of([{"role": "user", "content": "Olá!"}], asks=True), end="")
        ### user
        Olá!<|endoftext|>
        ### assistant
    """
    known = tokenizer.inner.get_vocab(with_added_tokens=True)
    turn = next((name for name in _KNOWN if name in known), _PLAIN)
    tokens = {"eos_token": tokenizer.end_of_document_token}
    return ChatTemplate(_TEXT.replace("[TURN]", turn), tokens, "lavra's own chat template")


def with_turn_token(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the special token that begins a turn, which gets a new last id."""
    return with_special_tokens(tokenizer, [TURN], tokenizer.end_of_document_token)

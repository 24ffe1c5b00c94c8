"""Tells the bytes that the tokens of any tokenizer stand for, so that vocabularies can be compared, and the ids of
bytes."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Literal

from lavra.data.tokenizers.tokenizer import Tokenizer

Style = Literal["bytes", "sentencepiece", "wordpiece"]
"""The ways in which vocabularies spell their tokens."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def style_of(tokenizer: Tokenizer) -> Style:
    """Return how a vocabulary spells its tokens.

    Returns:
        "bytes" for GPT-2's letter for each byte, "sentencepiece" for ▁ instead of spaces, "wordpiece" for ## before
        tokens that continue a word.
    """
    description = json.loads(tokenizer.serialised)
    if description["model"].get("type") == "WordPiece":
        return "wordpiece"
    steps = json.dumps([description.get("decoder"), description.get("pre_tokenizer")])
    return "bytes" if '"ByteLevel"' in steps else "sentencepiece"


def token_bytes(tokenizer: Tokenizer) -> list[bytes | None]:
    """Return the bytes that each id stands for, with the space before a word; None for special and unused ids.

    Examples:
        >>> from lavra.data.tokenizers.token_bytes import token_bytes
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> b"".join(token_bytes(tokenizer)[number] for number in tokenizer.encode("a rosa"))
        b'a rosa'
    """
    style = style_of(tokenizer)
    special = {number for number, token in tokenizer.inner.get_added_tokens_decoder().items() if token.special}
    found: list[bytes | None] = [None] * tokenizer.vocabulary_size
    for token, number in tokenizer.inner.get_vocab(with_added_tokens=True).items():
        if number not in special and number != tokenizer.unknown:
            found[number] = _bytes_of(token, style)
    return found


class BytePieces:
    """Turns pieces of text, which need not be whole words, into the ids by which a tokenizer writes them.

    Args:
        tokenizer: A tokenizer of any kind.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.style = style_of(tokenizer)
        self._tokenizer = tokenizer
        self._model = tokenizer.inner.model

    def ids(self, piece: bytes) -> list[int]:
        """Return the ids that stand for the bytes of a piece; an empty list where the vocabulary cannot write it."""
        if self.style == "bytes":
            spelled = "".join(_alphabet()[byte] for byte in piece)
        else:
            try:
                text = piece.decode()
            except UnicodeDecodeError:
                return self._byte_ids(piece)
            spelled = self._word(text) if self.style == "wordpiece" else text.replace(" ", "▁")
        return [token.id for token in self._model.tokenize(spelled) if token.id != self._tokenizer.unknown]

    def _word(self, text: str) -> str:
        normalizer = self._tokenizer.inner.normalizer
        word = text.strip() if normalizer is None else normalizer.normalize_str(text.strip())
        inside = f"##{word}"
        return inside if not text.startswith(" ") and self._model.token_to_id(inside) is not None else word

    def _byte_ids(self, piece: bytes) -> list[int]:
        numbers = [self._model.token_to_id(f"<0x{byte:02X}>") for byte in piece]
        return [number for number in numbers if number is not None]


def _bytes_of(token: str, style: Style) -> bytes:
    if style == "bytes":
        letters = _letters()
        if all(letter in letters for letter in token):
            return bytes(letters[letter] for letter in token)
        return token.encode()  # an added token is spelled as it is
    if style == "wordpiece":
        if token.startswith("##"):
            return token[2:].encode()
        return (" " + token if token[:1].isalnum() else token).encode()
    match = _BYTE.fullmatch(token)
    return bytes([int(match.group(1), 16)]) if match else token.replace("▁", " ").encode()


@cache
def _alphabet() -> list[str]:
    """Return GPT-2's letter for each byte: the byte's own character where it is printable, else one from 256 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    letters, spare = [], 256
    for byte in range(256):
        letters.append(chr(byte if byte in seen else spare))
        spare += byte not in seen
    return letters


@cache
def _letters() -> dict[str, int]:
    return {letter: byte for byte, letter in enumerate(_alphabet())}

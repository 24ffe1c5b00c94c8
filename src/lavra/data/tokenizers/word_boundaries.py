"""Finds the words among tokens, whether the tokenizer marks their inside (##) or their beginning (Ġ and ▁)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lavra.data.tokenizers.tokenizer import Tokenizer

_SIGN = 0  # classes of characters
_LETTER = 1
_SPACE = 2


@dataclass(frozen=True, eq=False)
class Words:
    """What each token of a vocabulary tells about the borders of words.

    Attributes:
        begins: (vocabulary,) bool; whether the token always begins a word.
        continues: (vocabulary,) bool; whether the token always continues the word before it.
        first: (vocabulary,) bool; whether the first character of the token is a letter or a digit.
        last: (vocabulary,) bool; whether the last character of the token is a letter or a digit.
        special: (vocabulary,) bool; whether the id is no text: an added token, the unknown token, or an unused id.

    Examples:
        >>> import numpy as np
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> from lavra.data.tokenizers.word_boundaries import Words
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> ids = np.array(tokenizer.encode("da rosa, rosa"))
        >>> [tokenizer.decode([number]) for number in ids]
        ['d', 'a', ' ros', 'a', ',', ' ros', 'a']
        >>> Words.of(tokenizer).groups(ids, np.zeros(len(ids), int)).tolist()
        [0, 0, 1, 1, 2, 3, 3]
    """

    begins: np.ndarray
    continues: np.ndarray
    first: np.ndarray
    last: np.ndarray
    special: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Words:
        """Return the borders of words in a tokenizer's vocabulary."""
        description = json.loads(tokenizer.serialised)
        model = description["model"]
        prefix = model["continuing_subword_prefix"] if model["type"] == "WordPiece" else None
        byte_classes = _byte_classes() if '"ByteLevel"' in json.dumps(description.get("pre_tokenizer")) else None
        size = tokenizer.vocabulary_size
        begins, continues, first_letters, last_letters = np.zeros((4, size), bool)
        words = cls(begins, continues, first_letters, last_letters, np.ones(size, bool))
        added = tokenizer.inner.get_added_tokens_decoder()
        for token, number in tokenizer.inner.get_vocab(with_added_tokens=True).items():
            if number in added or number == tokenizer.unknown or not token:
                continue
            inside = prefix is not None and token.startswith(prefix) and len(token) > len(prefix)
            text = token.removeprefix(prefix) if inside and prefix else token
            first, last = (byte_classes[char] if byte_classes else _class_of(char) for char in (text[0], text[-1]))
            words.special[number] = False
            words.continues[number] = inside
            words.begins[number] = first == _SPACE if prefix is None else not inside
            words.first[number], words.last[number] = first == _LETTER, last == _LETTER
        return words

    @cached_property
    def texts(self) -> np.ndarray:
        """The (n,) int64 ids that are text, that is, not special."""
        return np.flatnonzero(~self.special)

    def groups(self, ids: np.ndarray, document_ids: np.ndarray) -> np.ndarray:
        """Return the number of the word that each token belongs to; a punctuation mark is a word of its own.

        Args:
            ids: (tokens,) int64 ids.
            document_ids: (tokens,) number of each token's document; no word crosses the border of a document.

        Returns:
            (tokens,) int64 numbers from 0, in order.
        """
        before, after = ids[:-1], ids[1:]
        joined = (self.last[before] & self.first[after] & ~self.begins[after]) | self.continues[after]
        joined &= ~(self.special[before] | self.special[after]) & (document_ids[1:] == document_ids[:-1])
        return np.cumsum(np.concatenate([[True], ~joined])) - 1


def _class_of(char: str) -> int:
    if char == "▁" or char.isspace():
        return _SPACE
    return _LETTER if char.isalnum() else _SIGN


def _byte_classes() -> dict[str, int]:
    """Return the class of each character by which byte-level tokenizers write a byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    bytes_of = {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
    return {char: _LETTER if byte >= 128 else _class_of(chr(byte)) for char, byte in bytes_of.items()}

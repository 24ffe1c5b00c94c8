"""Reads the tokenizers of llama2.c: SentencePiece's byte pairs with their scores, written as one flat file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from lavra.core.errors import CorruptFile, InputError
from lavra.data.tokenizers.files import put_before_texts
from lavra.data.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

# The special tokens, which have the first ids; a token for each byte follows them.
UNKNOWN = "<unk>"
BEGINNING = "<s>"
ENDING = "</s>"
_SPECIAL = (UNKNOWN, BEGINNING, ENDING)
_FIRST_BYTE = 3
_BYTES = 256


def find_llama2c_tokenizer(model: Path, vocabulary: int) -> Path:
    """Return the path of the tokenizer beside a llama2.c checkpoint: `tok<vocabulary>.bin` or `tokenizer.bin`.

    Args:
        model: Path of the checkpoint.
        vocabulary: Size of the model's vocabulary.

    Raises:
        InputError: if there is none.
    """
    names = (f"tok{vocabulary}.bin", "tokenizer.bin")
    for name in names:
        if (model.parent / name).is_file():
            return model.parent / name
    raise InputError(f"{model} has no tokenizer beside it", f"put {' or '.join(names)} into {model.parent}")


def load_llama2c_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """Return the tokenizer in a `tokenizer.bin`.

    The models of llama2.c were trained with `<s>` between documents, so `<s>` is the end-of-document token here.

    Args:
        path: The file. It holds an int32, and for each token a float32 score, an int32 length and as many bytes, all
            little-endian.
        vocabulary: Size of the model's vocabulary.

    Raises:
        InputError: if the file holds another number of tokens.
        CorruptFile: if the file is cut short.
    """
    pieces = _read_pieces(path)
    if len(pieces) != vocabulary or vocabulary < _FIRST_BYTE + _BYTES:
        raise InputError(
            f"{path} holds {len(pieces)} tokens, the model beside it {vocabulary}",
            "put the model's own tokenizer there",
        )
    return Tokenizer(_build(pieces), BEGINNING)


def _read_pieces(path: Path) -> list[tuple[str, float]]:
    data = path.read_bytes()
    pieces: list[tuple[str, float]] = []
    place = 4  # skips the length of the longest token, which is not needed here
    try:
        while place < len(data):
            score, length = struct.unpack_from("<fi", data, place)
            place += 8
            if length < 0 or place + length > len(data):
                raise ValueError(f"token {len(pieces)} has length {length}")
            pieces.append((data[place : place + length].decode(), score))
            place += length
    except (struct.error, ValueError) as error:
        raise CorruptFile(f"{path} is damaged: {error}", "copy it again") from error
    return pieces


def _build(pieces: list[tuple[str, float]]) -> tokenizers.Tokenizer:
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as Library

    vocabulary = {name: number for number, name in enumerate(_SPECIAL)}
    vocabulary.update({f"<0x{byte:02X}>": _FIRST_BYTE + byte for byte in range(_BYTES)})
    scores: dict[str, float] = {}
    for number, (text, score) in enumerate(pieces):
        if number >= _FIRST_BYTE + _BYTES:
            vocabulary[text.replace(" ", "▁")] = number
            scores[text.replace(" ", "▁")] = score
    bpe = models.BPE(vocabulary, _merges(vocabulary, scores), unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    inner = Library(bpe)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    put_before_texts(inner, BEGINNING)
    return inner


def _merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the pairs in the order in which SentencePiece merges them: by the score of the token that they form."""
    merges = [
        (-score, number, piece[:cut], piece[cut:])
        for number, (piece, score) in enumerate(scores.items())
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    return [(left, right) for _, _, left, right in sorted(merges)]

"""Honest yardsticks on the same bytes: what a model must beat before its number means anything."""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.progress import track
from lavra.evaluation.documents import Documents

# How small xz makes a text.

XZ_DICTIONARY = 64 * 2**20
"""The window of `xz -9`."""


def xz_size(pieces: Iterable[bytes], about: int) -> int:
    """Return the bytes of `xz -9` of the pieces together.

    The dictionary is no larger than the text needs, which changes the memory (up to 674 MiB) and not the result.

    Args:
        pieces: of the text.
        about: bytes of all of them, within a factor of two.
    """
    needed = 2 ** max(12, math.ceil(math.log2(max(2, 2 * about))))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(XZ_DICTIONARY, needed)}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())


# Honest yardsticks on the same bytes: what a model must beat before its number means anything.


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A reference in the unit that all models share.

    Attributes:
        name: short, for a table.
        bits_per_byte: of the original text.
        explanation: what it is, in one sentence.
    """

    name: str
    bits_per_byte: float
    explanation: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"name": self.name, "bits_per_byte": self.bits_per_byte, "explanation": self.explanation}


def yardsticks(
    documents: Documents, texts: Iterable[str], vocabulary_size: int, training_counts: NDArray[np.int64] | None = None
) -> list[Yardstick]:
    """Return xz, a unigram model and the uniform model, measured on the documents.

    Args:
        documents: what the model is measured on.
        texts: the same documents as text (`documents.texts(tokenizer)`, or the originals).
        vocabulary_size: tokens that can occur.
        training_counts: (vocabulary,) how often each token occurs in the training data, from `count_tokens`. Without
            it the unigram model is fitted to the evaluated text itself, which flatters it.
    """
    return [
        uniform(documents, vocabulary_size),
        unigram(documents, vocabulary_size, training_counts),
        xz(texts, int(documents.bytes.sum())),
    ]


def uniform(documents: Documents, vocabulary_size: int) -> Yardstick:
    """Return what guessing costs: ln V nats for every token, as a model before its first step pays."""
    bits = float(documents.lengths.sum()) * math.log2(vocabulary_size)
    return Yardstick(
        "uniform", bits / int(documents.bytes.sum()), f"every one of {vocabulary_size:,} tokens equally likely (ln V)"
    )


def unigram(documents: Documents, vocabulary_size: int, training_counts: NDArray[np.int64] | None = None) -> Yardstick:
    """Return the cost of tokens drawn independently by their frequency.

    With `training_counts`, one is added to each (Laplace), so that unseen tokens have a price. Without, the
    frequencies are those of the evaluated text itself: the best that any unigram model could do on it.
    """
    seen = np.zeros(vocabulary_size, dtype=np.int64)
    for start, end in _stretches(documents):
        seen += count_tokens(documents.tokens[start:end], vocabulary_size)
    known = seen if training_counts is None else training_counts.astype(np.float64) + 1
    occurring = seen > 0
    bits = -float(seen[occurring] @ np.log2(known[occurring] / known.sum()))
    told = "the training data, plus one" if training_counts is not None else "the text itself (it knows the answer)"
    return Yardstick("unigram", bits / int(documents.bytes.sum()), f"tokens drawn by their frequency in {told}")


def count_tokens(tokens: NDArray[Any], vocabulary_size: int) -> NDArray[np.int64]:
    """Return (vocabulary,) how often each id occurs; a token store is read in pieces, which are widened to 8 bytes."""
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    for start in range(0, len(tokens), 2**20):
        counts += np.bincount(tokens[start : start + 2**20], minlength=vocabulary_size)
    return counts


def xz(texts: Iterable[str], total_bytes: int) -> Yardstick:
    """Return the size of `xz -9` of the documents joined by newlines, over the bytes of the documents.

    The joining newlines are compressed but not counted, as the end-of-document tokens are scored but not counted.

    Args:
        texts: the documents.
        total_bytes: their UTF-8 bytes.
    """
    joined = (
        (("\n" if number else "") + text).encode("utf8", "surrogatepass")
        for number, text in enumerate(track(texts, "compressing with xz -9", unit="documents"))
    )
    size = xz_size(joined, total_bytes)
    return Yardstick("xz -9", 8 * size / total_bytes, "the documents joined by newlines and compressed by xz -9")


def _stretches(documents: Documents) -> Iterable[tuple[int, int]]:
    """Yield the documents as few runs of neighbouring tokens."""
    if not len(documents):
        return
    breaks = np.flatnonzero(documents.starts[1:] != documents.ends[:-1]) + 1
    firsts = np.concatenate([[0], breaks])
    lasts = np.concatenate([breaks, [len(documents)]]) - 1
    yield from zip(documents.starts[firsts].tolist(), documents.ends[lasts].tolist(), strict=True)

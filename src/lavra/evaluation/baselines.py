"""Baselines in bits per byte on the same text: what a model must beat before its number means anything."""

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

XZ_DICTIONARY = 64 * 2**20
"""Bytes of the dictionary of `xz -9` (64 MiB): how far back it finds repetitions."""


def xz_size(pieces: Iterable[bytes], about: int) -> int:
    """Return the size in bytes of a text that is compressed by `xz -9`.

    The dictionary is made no larger than the text needs. That saves memory (the full one takes up to 674 MiB) and does
    not change the result.

    Args:
        pieces: Consecutive pieces of the text, of any length.
        about: Approximate number of bytes of the whole text, within a factor of two.

    Examples:
        >>> xz_size([b"to be or not to be " * 1000], about=19_000) < 200
        True
    """
    needed = 2 ** max(12, math.ceil(math.log2(max(2, 2 * about))))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(XZ_DICTIONARY, needed)}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline in bits per byte, the unit in which all models can be compared.

    Attributes:
        name: Short name for a table, such as "unigram".
        bits_per_byte: Bits that the baseline spends on each byte of the original text.
        explanation: One sentence that says how the baseline predicts.
    """

    name: str
    bits_per_byte: float
    explanation: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        return {"name": self.name, "bits_per_byte": self.bits_per_byte, "explanation": self.explanation}


def baselines(
    documents: Documents, texts: Iterable[str], vocabulary_size: int, training_counts: NDArray[np.int64] | None = None
) -> list[Baseline]:
    """Return three baselines on the documents: the uniform model, a unigram model and `xz -9`.

    Args:
        documents: Documents on which the model is evaluated.
        texts: Texts of the same documents: the originals, or `documents.texts(tokenizer)`.
        vocabulary_size: Number of tokens of the vocabulary.
        training_counts: Count of each token in the training data, (vocabulary,), from `count_tokens`. With None the
            unigram model is fitted to the evaluated text itself, which flatters it.
    """
    return [
        uniform(documents, vocabulary_size),
        unigram(documents, vocabulary_size, training_counts),
        xz(texts, int(documents.bytes.sum())),
    ]


def uniform(documents: Documents, vocabulary_size: int) -> Baseline:
    """Return the baseline that gives every token the same probability: log2 V bits for each.

    This is also about what a model scores before its first training step.

    Args:
        documents: Documents on which the model is evaluated.
        vocabulary_size: Number of tokens of the vocabulary, V.
    """
    bits = float(documents.lengths.sum()) * math.log2(vocabulary_size)
    return Baseline(
        "uniform", bits / int(documents.bytes.sum()), f"every one of {vocabulary_size:,} tokens equally likely (ln V)"
    )


def unigram(documents: Documents, vocabulary_size: int, training_counts: NDArray[np.int64] | None = None) -> Baseline:
    """Return the baseline that predicts each token by its frequency alone, without any context.

    Args:
        documents: Documents on which the model is evaluated.
        vocabulary_size: Number of tokens of the vocabulary.
        training_counts: Count of each token in the training data, (vocabulary,). One is added to each count (Laplace
            smoothing), so that a token that never occurred has a probability above zero. With None, the frequencies are
            those of the evaluated text, which is the best that any unigram model could do on it.
    """
    seen = np.zeros(vocabulary_size, dtype=np.int64)
    for start, end in _stretches(documents):
        seen += count_tokens(documents.tokens[start:end], vocabulary_size)
    known = seen if training_counts is None else training_counts.astype(np.float64) + 1
    occurring = seen > 0
    bits = -float(seen[occurring] @ np.log2(known[occurring] / known.sum()))
    told = "the training data, plus one" if training_counts is not None else "the text itself (it knows the answer)"
    return Baseline("unigram", bits / int(documents.bytes.sum()), f"tokens drawn by their frequency in {told}")


def count_tokens(tokens: NDArray[Any], vocabulary_size: int) -> NDArray[np.int64]:
    """Return the count of each token id, (vocabulary,).

    Args:
        tokens: Token ids, (tokens,), in memory or mapped from a token store.
        vocabulary_size: Number of tokens of the vocabulary.

    Examples:
        >>> count_tokens(np.array([0, 2, 2]), vocabulary_size=4).tolist()
        [1, 0, 2, 0]
    """
    # NumPy counts a copy of 8 bytes per token, so a large store is counted in pieces.
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    for start in range(0, len(tokens), 2**20):
        counts += np.bincount(tokens[start : start + 2**20], minlength=vocabulary_size)
    return counts


def xz(texts: Iterable[str], total_bytes: int) -> Baseline:
    """Return the baseline that compresses the documents, joined by newlines, with `xz -9`.

    The joining newlines are compressed, but the bits are divided by the bytes of the documents alone. That treats them
    as the end-of-document tokens of a model are treated: predicted, and not counted as bytes.

    Args:
        texts: Texts of the documents.
        total_bytes: UTF-8 bytes of all texts together.
    """
    joined = (
        (("\n" if number else "") + text).encode("utf8", "surrogatepass")
        for number, text in enumerate(track(texts, "compressing with xz -9", unit="documents"))
    )
    size = xz_size(joined, total_bytes)
    return Baseline("xz -9", 8 * size / total_bytes, "the documents joined by newlines and compressed by xz -9")


def _stretches(documents: Documents) -> Iterable[tuple[int, int]]:
    """Yield (start, end) of the fewest contiguous runs of tokens that cover the documents."""
    if not len(documents):
        return
    breaks = np.flatnonzero(documents.starts[1:] != documents.ends[:-1]) + 1
    firsts = np.concatenate([[0], breaks])
    lasts = np.concatenate([breaks, [len(documents)]]) - 1
    yield from zip(documents.starts[firsts].tolist(), documents.ends[lasts].tolist(), strict=True)

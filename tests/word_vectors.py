"""An encoder whose vectors are made of the words of a text, so that what is near is known beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lavra.vectors.protocols import TextKind


class WordEncoder:
    """Sums a fixed random vector for each word; synonyms have the same one.

    Args:
        synonyms: The word that is meant, by the word that is written.
        dimensions: Size of a vector.
        fingerprint: The name of the "model".
        longest: Most tokens that the encoder says it reads.

    Attributes:
        encoded: Every (kind, text) that was encoded.
    """

    def __init__(
        self,
        synonyms: dict[str, str] | None = None,
        *,
        dimensions: int = 32,
        fingerprint: str = "words",
        longest: int | None = None,
    ) -> None:
        self.synonyms = synonyms or {}
        self.dimensions, self.fingerprint, self.longest = dimensions, fingerprint, longest
        self.encoded: list[tuple[str, str]] = []

    def encode(self, texts: Sequence[str], *, kind: TextKind = "text") -> NDArray[np.float32]:
        """Return (texts, dimensions) float32 vectors of length 1."""
        self.encoded += [(kind, text) for text in texts]
        vectors = np.array([self._vector(text) for text in texts], dtype=np.float32).reshape(-1, self.dimensions)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def _vector(self, text: str) -> NDArray[np.float64]:
        words = [self.synonyms.get(word, word) for word in text.lower().split()] or [""]
        return np.sum([self._of_word(word) for word in words], axis=0)

    def _of_word(self, word: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return np.random.default_rng(seed).standard_normal(self.dimensions)

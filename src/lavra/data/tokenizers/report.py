"""Draws the bounded sample of a corpus on which a tokenizer is trained, and measures how a tokenizer fits a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lavra.data.split import HASHES
from lavra.data.tokenizers.streaming import Cut, cut_chunks
from lavra.data.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizerReport:
    """How a tokenizer fits a corpus; the end-of-document tokens are not counted.

    Attributes:
        vocabulary_size: Number of ids of the tokenizer.
        tokens: Number of tokens of the corpus.
        fertility: Tokens per word, where words are what white space separates; 1 is one token for each word.
        bytes_per_token: Bytes of UTF-8 text per token.
        single_byte_share: Share of the tokens that stand for one byte; high for a language that the tokenizer was not
            made for.
        unknown_rate: Share of the tokens that stand for text that the vocabulary cannot write; 0 for byte-level
            tokenizers.
        used_share: Share of the vocabulary that occurs in the corpus.

    Examples:
        >>> from lavra.data.tokenizers.report import TokenizerReport
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=257)
        >>> TokenizerReport.measure(tokenizer, ["duas rosas"]).summary()
        'tokenizer: 257 tokens, 5.00 per word, 1.00 bytes each, 100% of them single bytes'
    """

    vocabulary_size: int
    tokens: int
    fertility: float
    bytes_per_token: float
    single_byte_share: float
    unknown_rate: float
    used_share: float

    def summary(self) -> str:
        """Return the figures in one line."""
        unknown = f", {self.unknown_rate:.2%} unknown" if self.unknown_rate else ""
        return (
            f"tokenizer: {self.vocabulary_size:,} tokens, {self.fertility:.2f} per word, "
            f"{self.bytes_per_token:.2f} bytes each, {self.single_byte_share:.0%} of them single bytes{unknown}"
        )

    @classmethod
    def from_counts(cls, tokenizer: Tokenizer, counts: np.ndarray, *, words: int, text_bytes: int) -> TokenizerReport:
        """Return the report on a corpus that has been encoded and counted.

        Args:
            tokenizer: The tokenizer that encoded the corpus.
            counts: (vocabulary,) number of times that each id occurs.
            words: Number of words of the corpus.
            text_bytes: Bytes of the corpus as UTF-8.
        """
        counts = counts.astype(np.int64, copy=True)
        counts[tokenizer.end_of_document] = 0
        tokens = max(1, int(counts.sum()))
        unknown = int(counts[tokenizer.unknown]) if tokenizer.unknown is not None else 0
        return cls(
            vocabulary_size=tokenizer.vocabulary_size,
            tokens=int(counts.sum()),
            fertility=int(counts.sum()) / max(1, words),
            bytes_per_token=text_bytes / tokens,
            single_byte_share=int(counts[tokenizer.token_lengths() == 1].sum()) / tokens,
            unknown_rate=unknown / tokens,
            used_share=int(np.count_nonzero(counts)) / tokenizer.vocabulary_size,
        )

    @classmethod
    def measure(cls, tokenizer: Tokenizer, texts: Iterable[str]) -> TokenizerReport:
        """Return the report on some texts, which are encoded for it."""
        counts = np.zeros(tokenizer.vocabulary_size, np.int64)
        words = text_bytes = 0
        for text in texts:
            words += len(text.split())
            text_bytes += len(text.encode())
            counts += np.bincount(tokenizer.encode_many([text])[0], minlength=len(counts))
        return cls.from_counts(tokenizer, counts, words=words, text_bytes=text_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


SAMPLE_BYTES = 20_000_000
"""Bytes of the sample; more text hardly changes a byte-pair vocabulary of 32 thousand tokens."""


class CorpusSample:
    """A sample of the pieces of texts, of a bounded size.

    A piece is kept when a seeded hash of its content lies below a threshold (hash-threshold sampling), so that equal
    pieces are kept or left out together, whatever the order of the texts. When the sample grows beyond its limit, the
    threshold is halved, which drops about half of the sample.

    Args:
        limit: Largest number of bytes to keep; `SAMPLE_BYTES` by default.
        seed: Seed of the hash; another seed chooses other pieces.

    Examples:
        >>> from lavra.data.tokenizers.report import CorpusSample
        >>> sample = CorpusSample(limit=10)
        >>> for text in ("first", "second", "third", "fourth"):
        ...     sample.add(text)
        >>> sum(len(piece) for piece in sample) <= 10
        True
    """

    def __init__(self, limit: int = SAMPLE_BYTES, seed: int = 0) -> None:
        self.limit, self.seed = limit, seed
        self._threshold = HASHES
        self._pieces: list[tuple[int, str, int]] = []
        self._bytes = 0

    def add(self, text: str) -> None:
        """Add a text to the sample, which keeps or drops each of its pieces."""
        import xxhash

        for piece in cut_chunks(text, Cut.BEFORE_SPACE):
            encoded = piece.encode()
            place = xxhash.xxh3_64_intdigest(encoded, self.seed)
            if place < self._threshold:
                self._pieces.append((place, piece, len(encoded)))
                self._bytes += len(encoded)
                self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self.limit and len(self._pieces) > 1:
            self._threshold //= 2
            self._pieces = [piece for piece in self._pieces if piece[0] < self._threshold]
            self._bytes = sum(size for _, _, size in self._pieces)

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces kept, in reading order."""
        return (text for _, text, _ in self._pieces)

    def __len__(self) -> int:
        """The number of pieces kept."""
        return len(self._pieces)

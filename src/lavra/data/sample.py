"""A sample of bounded size, spread evenly over a corpus of any size, for training a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from lavra.data.pieces import Cut, cut_pieces
from lavra.data.split import HASHES

SAMPLE_BYTES = 20_000_000
"""More text than this hardly changes a byte-pair vocabulary of 32 thousand."""


class TextSample:
    """Keeps pieces of the texts added to it, chosen by a seeded hash; at most `limit` bytes of them.

    Whether a piece is kept depends on its content only; when the sample grows beyond the limit, half of it is dropped.

    Args:
        limit: bytes to keep.
        seed: another seed chooses other pieces.
    """

    def __init__(self, limit: int = SAMPLE_BYTES, seed: int = 0) -> None:
        self.limit, self.seed = limit, seed
        self._threshold = HASHES
        self._pieces: list[tuple[int, str, int]] = []
        self._bytes = 0

    def add(self, text: str) -> None:
        """Offer a text to the sample."""
        import xxhash

        for piece in cut_pieces(text, Cut.BEFORE_SPACE):
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

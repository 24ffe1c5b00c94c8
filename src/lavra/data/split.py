"""Splits text into training and validation data by a hash of each document, not by its position.

A document is validation data when the hash of its text lies below a threshold, so that equal texts are on the same
side, and a document stays on its side whatever is added to the corpus. Three rules bound this; each can move a document
only when the corpus is small, or when it has grown to twice its size:

- *Limit.* Where the validation data would exceed the limit, the threshold is halved until it does not. A document then
  moves from validation to training only, never the other way.
- *Enough.* Where less than a fifth of the wanted share falls below the threshold (a handful of documents), documents
  become validation data in the order of their hashes until the share is reached.
- *Tails.* Of a validation document that is too large a part of the corpus (four times the wanted share, or half the
  limit), only the end is validation data, cut at a paragraph; its beginning is trained on. So a corpus of one large
  file has validation data too.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Any

from lavra.core.errors import InputError
from lavra.data.readers.text_files import cut_near

HASHES = 1 << 64
"""Number of different hashes, which lie from 0 to `HASHES - 1`."""

_LEVELS = 48  # halvings of the threshold that are counted
_LOWEST = 4096  # documents with the smallest hashes that are remembered, for the rule "Enough"
_ENOUGH = 1 / 5  # part of the wanted share of validation data with which the threshold stays as it is
_TOO_LARGE = 4  # times the wanted share, from which only the end of a document is validation data


def content_hash(text: bytes) -> int:
    """Return the 64-bit hash (xxh3) that decides on which side a text lies; white space at its ends does not count."""
    import xxhash

    return xxhash.xxh3_64_intdigest(text.strip())


@dataclass(frozen=True, slots=True)
class Split:
    """A decision on which documents are validation data.

    Attributes:
        threshold: Documents whose hash is smaller are validation data.
        largest: Bytes above which only the end of such a document is validation data.
        tail: Bytes of such an end.
        share: Share of the corpus that was wanted for validation.
        limit: Largest number of bytes of validation data.

    Examples:
        >>> from lavra.data.split import SplitCounter
        >>> texts = [f"document number {number}" for number in range(1000)]
        >>> counter = SplitCounter(share=0.1, limit=10_000_000)
        >>> for text in texts:
        ...     _ = counter.add(text.encode())
        >>> split = counter.decide()
        >>> divided = [split.divide(text) for text in texts]
        >>> 50 < sum(bool(validation) for training, validation in divided) < 150
        True
    """

    threshold: int
    largest: int
    tail: int
    share: float
    limit: int

    def divide(self, text: str) -> tuple[str, str]:
        """Return the training part and the validation part of a document; usually one of them is empty."""
        encoded = text.encode()
        if content_hash(encoded) >= self.threshold:
            return text, ""
        if len(encoded) <= self.largest:
            return "", text
        place = round(len(text) * (1 - self.tail / len(encoded)))
        place = cut_near(text, place, (len(text) - place) // 2)
        head, tail = text[:place], text[place:]
        return (head, tail) if head.strip() and tail.strip() else (text, "")

    def to_json(self) -> dict[str, Any]:
        """Return the split as plain values."""
        return asdict(self)


class Halves:
    """Divides validation data in two: one half chooses among models, and the other measures the model that was chosen.

    Each text goes to the half that has fewer of its kind so far, or fewer texts in all, so that both are alike. An
    equal text goes where the first one went, and the first of all to the half that chooses. The division depends on the
    texts and their order.

    Examples:
        >>> halves = Halves()
        >>> [halves.is_held_out(text) for text in (b"one", b"two", b"three", b"two")]
        [False, True, False, True]
    """

    def __init__(self) -> None:
        self._sides: dict[int, bool] = {}
        self._balance: Counter[Hashable] = Counter()  # texts of a kind that choose, less those that measure
        self._total = 0

    def is_held_out(self, text: bytes, kind: Hashable = None) -> bool:
        """Return whether a text belongs to the half that measures.

        Args:
            text: The text, or what stands for it, as UTF-8.
            kind: What both halves should have equally much of, such as the label of the text.
        """
        place = content_hash(text)
        if place not in self._sides:
            held_out = (self._balance[kind] or self._total) > 0
            self._sides[place] = held_out
            self._balance[kind] += -1 if held_out else 1
            self._total += -1 if held_out else 1
        return self._sides[place]


def cut_in_half(text: str) -> tuple[str, str]:
    """Return two parts of a text of about the same length, cut near its middle at the end of a paragraph."""
    place = cut_near(text, len(text) // 2, len(text) // 4)
    return text[:place], text[place:]


class GivenValidation:
    """The validation documents that a person named, which are counted and recognised.

    Attributes:
        documents: Number of documents added so far.
        bytes: Bytes of their text.
    """

    def __init__(self) -> None:
        self.documents = self.bytes = 0
        self._hashes: set[int] = set()

    def add(self, text: bytes) -> None:
        """Add one document, given as UTF-8."""
        self.documents += 1
        self.bytes += len(text)
        self._hashes.add(content_hash(text))

    def __contains__(self, text: bytes) -> bool:
        """Return whether an equal text was added."""
        return bool(self._hashes) and content_hash(text) in self._hashes


class SplitCounter:
    """Counts a corpus, in constant memory, for the decision on its split.

    Args:
        share: Share of the bytes that is wanted for validation, above 0 and at most 0.5.
        limit: Largest number of bytes of validation data.

    Attributes:
        documents: Number of documents added so far.
        bytes: Bytes of their text.

    Raises:
        InputError: if the share is not between 0 and 0.5.
    """

    def __init__(self, share: float, limit: int) -> None:
        if not 0 < share <= 0.5:
            raise InputError(f"a validation share of {share} is not possible", "choose more than 0 and at most 0.5")
        self.share, self.limit = share, limit
        self.documents = self.bytes = 0
        self._first = int(share * HASHES)
        self._levels = [0] * _LEVELS
        self._lowest: list[tuple[int, int]] = []

    def add(self, text: bytes) -> bool:
        """Count one document, given as UTF-8.

        Returns:
            Whether the document would be validation data in a corpus whose validation data is below the limit.
        """
        place, size = content_hash(text), len(text)
        self.documents += 1
        self.bytes += size
        if len(self._lowest) < _LOWEST:
            heapq.heappush(self._lowest, (-place, size))
        elif -place > self._lowest[0][0]:
            heapq.heapreplace(self._lowest, (-place, size))
        if place >= self._first:
            return False
        # A level holds the bytes between two halvings of the threshold, so that any number of halvings can be decided.
        level = min(_LEVELS - 1, (self._first // (place + 1)).bit_length() - 1)
        self._levels[max(0, level)] += min(size, self.limit // 2)
        return True

    def decide(self) -> Split:
        """Return the split of the documents that were counted."""
        target = min(round(self.share * self.bytes), self.limit)
        largest = min(_TOO_LARGE * target, self.limit // 2)
        tail = min(target, self.limit // 2)
        threshold = self._below_the_limit()
        validation_set = 0
        for negative, size in sorted(self._lowest, reverse=True):
            if -negative >= threshold and validation_set >= _ENOUGH * target:
                break
            threshold = max(threshold, 1 - negative)
            validation_set += size if size <= largest else tail
        return Split(threshold, largest, tail, self.share, self.limit)

    def train_on_all(self) -> Split:
        """Return the split that makes all documents training data, for a corpus with validation data of its own."""
        return Split(0, 0, 0, self.share, self.limit)

    def _below_the_limit(self) -> int:
        """Return the threshold of the share, halved until no more bytes than the limit lie below it."""
        validation_set = sum(self._levels)
        threshold = self._first
        for size in self._levels:
            if validation_set <= self.limit:
                break
            validation_set -= size
            threshold //= 2
        return threshold

"""The contract of what makes vectors of texts: search, topics and measures know nothing of the model behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

TextKind = Literal["text", "query", "passage"]
"""What a text is: models that were trained with prefixes, such as E5, put another one before a query than before a
passage, and before a text that is compared with its like."""


@runtime_checkable
class TextEncoder(Protocol):
    """Makes vectors of texts.

    Attributes:
        fingerprint: Names the weights, the tokenizer, the pooling, the prefixes and the dimensions; equal fingerprints
            give equal vectors. A file of vectors keeps it, so that vectors of two models are never mixed.
        dimensions: Size of a vector.
        longest: Most tokens of a text that the model reads, the rest being left out; None where there is no limit.
    """

    fingerprint: str
    dimensions: int
    longest: int | None

    def encode(self, texts: Sequence[str], *, kind: TextKind = "text") -> NDArray[np.float32]:
        """Return the (texts, dimensions) float32 vectors of the texts, in their order.

        Vectors have length 1 where the model compares by the cosine, which is the rule; the inner product of two is
        then their similarity.

        Args:
            texts: Texts, as their author wrote them: the prefix of the kind is put before them here.
            kind: What the texts are.
        """
        ...

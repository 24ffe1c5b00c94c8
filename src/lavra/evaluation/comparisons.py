"""Texts that are compared by their vectors: what is measured on them, with any encoder and by the letters alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.seeds import numpy_stream
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.similarity import correlation_estimates, ranks_among, retrieval_estimates
from lavra.vectors.protocols import TextEncoder, TextKind

LETTERS = "tf-idf"
"""Name of the baseline: the cosine of TF-IDF vectors of character n-grams."""

_LOST = 0.5
"""Share of the words that the copy of a bare text loses, by which it is to be found again."""


@dataclass(frozen=True)
class Comparison:
    """First texts with second ones: pairs with scores, or texts among which the right one is to be found.

    Attributes:
        first: The first texts.
        second: The second texts: one for each first text where there are scores, else all that are searched.
        kinds: What the first and the second texts are.
        wanted: Score of each pair, (pairs,); None for texts that are searched.
        right: Numbers of the right second texts for each first one; empty for scored pairs.
        what: What the rows are, in the plural.
    """

    first: Sequence[str]
    second: Sequence[str]
    kinds: tuple[TextKind, TextKind]
    wanted: NDArray[np.float64] | None
    right: Sequence[frozenset[int]]
    what: str

    def __len__(self) -> int:
        return len(self.first)

    def vectors(self, encoder: TextEncoder) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the vectors of the first and of the second texts, of length 1 each.

        Args:
            encoder: What makes them.
        """
        if self.kinds[0] == self.kinds[1]:  # many texts are in both, and are embedded once
            distinct = list(dict.fromkeys([*self.first, *self.second]))
            number = {text: place for place, text in enumerate(distinct)}
            found = _of_length_one(encoder.encode(distinct, kind=self.kinds[0]))
            first, second = (found[[number[text] for text in side]] for side in (self.first, self.second))
            return first, second
        sides = zip((self.first, self.second), self.kinds, strict=True)
        first, second = (_of_length_one(encoder.encode(list(texts), kind=kind)) for texts, kind in sides)
        return first, second

    def values(self, first: Any, second: Any) -> NDArray[np.float64]:
        """Return the cosine of each pair, or the rank of the right text for each first one, (rows,).

        Args:
            first: Vectors of the first texts, of length 1.
            second: Vectors of the second texts, of length 1.
        """
        if self.wanted is None:
            return ranks_among(first, second, self.right).astype(np.float64)
        products = first.multiply(second) if hasattr(first, "multiply") else first * second
        return np.asarray(products.sum(axis=1), dtype=np.float64).ravel()

    def shortened(
        self, vectors: tuple[NDArray[np.float32], NDArray[np.float32]], size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the first numbers of vectors, divided by their length.

        Args:
            vectors: Vectors of the first and of the second texts.
            size: Number of dimensions that are kept.
        """
        first, second = (_of_length_one(side[:, :size]) for side in vectors)
        return first, second

    def of_letters(self) -> NDArray[np.float64] | None:
        """Return the values of the cosine of TF-IDF vectors of character n-grams; None where SciPy is missing."""
        if find_spec("scipy") is None:
            return None
        from lavra.text.tfidf import TfIdf, unit_rows

        every = list(dict.fromkeys([*self.first, *self.second]))
        features = TfIdf.fit(every)
        columns = slice(len(features.words), None)
        first, second = (
            unit_rows(features.transform(list(side))[:, columns].tocsr()) for side in (self.first, self.second)
        )
        return self.values(first, second)

    def estimates(self, values: NDArray[np.float64], *, seed: int = 0) -> dict[str, Estimate]:
        """Return the metrics of values, with bootstrap intervals over rows.

        Args:
            values: What `values` returned.
            seed: Seed of the bootstrap.
        """
        if self.wanted is None:
            return retrieval_estimates(values, seed=seed)
        return correlation_estimates(values, self.wanted, seed=seed)


def comparison_of(rows: Sequence[Mapping[str, Any]], *, seed: int = 0) -> Comparison:
    """Return what is measured on rows with vectors.

    Pairs with a score are measured by its correlation with the cosine. Of pairs without one, the second text is
    searched for among all second texts and negatives. A bare text is searched for by a copy that lost half of its
    words.

    Args:
        rows: What is kept of each row: `texts`, one or two, and where it has them `negatives` and `target`.
        seed: Seed of the words that copies lose.
    """
    texts = [row["texts"] for row in rows]
    if len(texts[0]) == 1:
        whole = [one[0] for one in texts]
        stream = numpy_stream(seed, "copies")
        copies = [_copy(text, stream) for text in whole]
        second, right = _searched([whole], [[text] for text in whole])
        return Comparison(copies, second, ("text", "text"), None, right, "texts, each searched by half of its words")
    first, second = [one[0] for one in texts], [one[1] for one in texts]
    negatives = [row.get("negatives") or [] for row in rows]
    if rows[0].get("target") is not None and not any(negatives):
        wanted = np.array([row["target"] for row in rows], dtype=np.float64)
        return Comparison(first, second, ("text", "text"), wanted, (), "scored pairs")
    answers: dict[str, list[str]] = {}
    for one, other in zip(first, second, strict=True):
        answers.setdefault(one, []).append(other)
    searched, right = _searched(
        [[other, *some] for other, some in zip(second, negatives, strict=True)], [answers[one] for one in first]
    )
    what = f"pairs, each searched among {len(searched):,} texts"
    return Comparison(first, searched, ("query", "passage"), None, right, what)


def _searched(
    groups: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]
) -> tuple[list[str], list[frozenset[int]]]:
    """Return the different texts of groups, and the numbers of the right ones for each row."""
    numbers: dict[str, int] = {}
    for group in groups:
        for text in group:
            numbers.setdefault(text, len(numbers))
    return list(numbers), [frozenset(numbers[text] for text in of_row) for of_row in answers]


def _copy(text: str, stream: np.random.Generator) -> str:
    words = text.split()
    kept = stream.random(len(words)) >= _LOST
    if words and not kept.any():
        kept[int(stream.integers(len(words)))] = True
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)


def _of_length_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)

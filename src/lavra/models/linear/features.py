"""The features of a linear model: TF-IDF of a text, or of the two texts of a pair and of what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.text.tfidf import Sparse, TfIdf, unit_rows

Texts = Sequence[str] | Sequence[tuple[str, str]]
"""One text for each row, or two."""

SIDES = ("in both", "only in the first", "only in the second")
"""What the word columns of a pair say of a word."""

_HINGES = (0.2, 0.4, 0.6, 0.8)  # cosines at which the slope may change, so that a similarity need not be linear in them


@dataclass(frozen=True)
class Features:
    """Turns rows into a sparse matrix.

    Attributes:
        tfidf: TF-IDF of single texts.
        pairs: Whether a row has two texts.
        means: Mean of each number that compares the texts of a pair, in the training rows; empty for single texts.
        scales: What each such number is divided by.
    """

    tfidf: TfIdf
    pairs: bool
    means: NDArray[np.float64]
    scales: NDArray[np.float64]

    @staticmethod
    def fit(texts: Texts, *, fewest: int) -> tuple[Features, Sparse]:
        """Return the features of the training rows, and the rows in them.

        Args:
            texts: The training rows, one text or two each.
            fewest: Number of texts that must have a term, for it to be a feature.

        Raises:
            InputError: If some rows have one text and some two, or no text holds a word.
        """
        pairs = is_pairs(texts)
        if not pairs:
            tfidf, matrix = TfIdf.fit_transform([str(text) for text in texts], fewest=fewest)
            return Features(tfidf, False, np.zeros(0), np.zeros(0)), matrix
        tfidf = TfIdf.fit([side for row in texts for side in row], fewest=fewest)
        sides = _sides(tfidf, texts)
        numbers = _numbers(tfidf, *sides)
        spread = numbers.std(axis=0)
        features = Features(tfidf, True, numbers.mean(axis=0), np.where(spread > 0, spread, 1.0))
        return features, features._matrix(*sides)

    def __len__(self) -> int:
        return len(self.tfidf) if not self.pairs else len(self.means) + len(SIDES) * len(self.tfidf.words)

    def transform(self, texts: Texts) -> Sparse:
        """Return the rows as a matrix, (rows, columns) float64.

        Raises:
            InputError: If the rows have another number of texts than those of the training.
        """
        if not len(texts):
            from scipy.sparse import csr_matrix

            return csr_matrix((0, len(self)))
        if is_pairs(texts) != self.pairs:
            wanted, given = ("two texts", "one") if self.pairs else ("one text", "two")
            raise InputError(f"the model was trained on rows of {wanted}, and these have {given}", "give such rows")
        if not self.pairs:
            return self.tfidf.transform([str(text) for text in texts])
        return self._matrix(*_sides(self.tfidf, texts))

    def word_columns(self) -> list[tuple[str, slice]]:
        """Return which columns belong to the words and bigrams: what they say of a word, "" for single texts."""
        count = len(self.tfidf.words)
        if not self.pairs:
            return [("", slice(0, count))]
        first = len(self.means)
        return [(name, slice(first + place * count, first + (place + 1) * count)) for place, name in enumerate(SIDES)]

    def _matrix(self, one: Sparse, two: Sparse) -> Sparse:
        from scipy.sparse import csr_matrix, hstack

        numbers = (_numbers(self.tfidf, one, two) - self.means) / self.scales
        words = len(self.tfidf.words)
        first, second = one[:, :words].tocsr(), two[:, :words].tocsr()
        both = first.multiply(second).tocsr()
        blocks = [both, first - first.multiply(second != 0), second - second.multiply(first != 0)]
        return hstack([csr_matrix(numbers), *(unit_rows(block.tocsr()) for block in blocks)], format="csr")


def is_pairs(texts: Texts) -> bool:
    """Return whether rows have two texts.

    Raises:
        InputError: If some rows have one text and some two.
    """
    kinds = {isinstance(row, str) for row in texts}
    if len(kinds) > 1 or any(not isinstance(row, str) and len(row) != 2 for row in texts):
        raise InputError("some rows have one text and others two", "give every row the same columns")
    return kinds == {False}


def _sides(tfidf: TfIdf, texts: Any) -> tuple[Sparse, Sparse]:
    one, two = (tfidf.transform([row[side] for row in texts]) for side in (0, 1))
    return one, two


def _numbers(tfidf: TfIdf, one: Sparse, two: Sparse) -> NDArray[np.float64]:
    """Return numbers that compare the two texts of each row, (rows, numbers)."""
    words = len(tfidf.words)
    columns: list[NDArray[np.float64]] = []
    for block in (slice(0, words), slice(words, None)):
        first, second = one[:, block].tocsr(), two[:, block].tocsr()
        cosine = _row_sums(first.multiply(second))
        columns += [cosine, *(np.maximum(0.0, cosine - hinge) for hinge in _HINGES)]
        # Of what one text says, how much the other says too: an entailed text says nothing new.
        squares = first.multiply(first), second.multiply(second)
        columns += [_row_sums(squares[0].multiply(second != 0)), _row_sums(squares[1].multiply(first != 0))]
    sizes = [np.log1p(np.diff(side.indptr)) for side in (one, two)]
    columns += [sizes[0] - sizes[1], np.abs(sizes[0] - sizes[1])]
    return np.column_stack(columns)


def _row_sums(matrix: Any) -> NDArray[np.float64]:
    return np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()

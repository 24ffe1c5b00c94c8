"""Distilling an encoder into static vectors: one vector for each token, so that a text is the mean of its tokens'.

1. Each token of the vocabulary is read by the encoder by itself (as in model2vec, van Dongen and Tulkens 2024).
2. The principal components of the vectors are kept; what all vectors have in common is taken off.
3. A token counts the less the more frequent it is in the user's text: smooth inverse frequency, a / (a + p) (Arora,
   Liang and Ma 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings").
4. The vectors are tuned so that the means of texts come close to what the encoder makes of the same texts, by ridge
   regression around the vectors of the first three steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavra.core.progress import Progress
from lavra.data.tokenizers.tokenizer import Tokenizer

SMOOTHING = 1e-3
"""The a of a / (a + p): a token that is every thousandth of the text counts half (Arora, Liang and Ma 2017)."""

RIDGE = 0.03
"""Weight of the distance from the first vectors, where the weight of a text is 1."""

_ROUNDS = 40
"""Most rounds of the conjugate gradients."""

_PRECISION = 1e-3
"""Share of the first residual at which the conjugate gradients end."""


@dataclass(frozen=True)
class Projection:
    """A projection onto principal components.

    Attributes:
        centre: What is taken off first, (width,).
        axes: The components, the one with the largest variance first, (width, dimensions).
        share: Share of the variance that they keep.
    """

    centre: NDArray[np.float32]
    axes: NDArray[np.float32]
    share: float

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (rows, dimensions) projections of (rows, width) vectors."""
        return np.asarray((vectors - self.centre) @ self.axes, np.float32)


def principal_components(vectors: NDArray[np.float32], dimensions: int) -> Projection:
    """Return the projection onto the principal components of vectors.

    Args:
        vectors: Vectors, (rows, width).
        dimensions: Number of components, at most the width.

    Examples:
        >>> found = principal_components(np.array([[0, 0], [2, 0], [4, 0]], np.float32), 1)
        >>> found.centre.tolist(), abs(found.axes).tolist(), found.share
        ([2.0, 0.0], [[1.0], [0.0]], 1.0)
    """
    wide = vectors.astype(np.float64)
    centre = wide.mean(0)
    values, axes = np.linalg.eigh(np.cov(wide.T, bias=True).reshape(wide.shape[1], -1))
    order = np.argsort(-values, kind="stable")[:dimensions]
    chosen = axes[:, order]
    # The sign of an eigenvector is arbitrary; its largest number is made positive.
    signs = np.sign(chosen[np.abs(chosen).argmax(0), np.arange(chosen.shape[1])])
    share = float(values[order].sum() / max(values.sum(), np.finfo(np.float64).tiny))
    return Projection(centre.astype(np.float32), (chosen * signs).astype(np.float32), share)


def token_frequencies(ids: Sequence[np.ndarray], vocabulary: int) -> NDArray[np.int64]:
    """Return how often each token occurs in texts, (vocabulary,).

    Args:
        ids: Ids of each text.
        vocabulary: Number of tokens.
    """
    counts = np.zeros(vocabulary, np.int64)
    for one in ids:
        counts += np.bincount(one, minlength=vocabulary)
    return counts


def sif_weights(counts: NDArray[np.int64], smoothing: float = SMOOTHING) -> NDArray[np.float32]:
    """Return the weight of each token by its frequency, a / (a + p), (vocabulary,).

    Args:
        counts: How often each token occurs.
        smoothing: The number a.

    Examples:
        >>> [round(float(weight), 3) for weight in sif_weights(np.array([0, 1, 999]))]
        [1.0, 0.5, 0.001]
    """
    shares = counts / max(1, counts.sum())
    return (smoothing / (smoothing + shares)).astype(np.float32)


def special_tokens(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return the ids of tokens that no text has: special ones, and numbers without a token.

    Args:
        tokenizer: The tokenizer.
    """
    used = set(tokenizer.inner.get_vocab(with_added_tokens=True).values())
    special = {number for number, token in tokenizer.inner.get_added_tokens_decoder().items() if token.special}
    absent = set(range(tokenizer.vocabulary_size)) - used
    return np.array(sorted(special | absent), np.int64)


def tuned(
    table: NDArray[np.float32],
    ids: Sequence[np.ndarray],
    targets: NDArray[np.float32],
    ridge: float = RIDGE,
) -> NDArray[np.float32]:
    """Return vectors of tokens whose means come close to the vectors of texts.

    The sum over texts of |mean of the tokens - target|² plus the ridge times |table - first table|² is least. All
    columns are solved together by conjugate gradients.

    Args:
        table: The first vectors, (vocabulary, dimensions).
        ids: Ids of the tokens of each text.
        targets: Vector of each text, (texts, dimensions).
        ridge: Weight of the distance from the first vectors.
    """
    means = _means(ids, len(table))
    found = table.astype(np.float32).copy()
    residual = means.T @ (targets - means @ found)
    direction, size = residual.copy(), (residual**2).sum(0)
    least = _PRECISION**2 * size
    with Progress("tuning the vectors", _ROUNDS, "rounds") as progress:
        for _ in range(_ROUNDS):
            if (size <= least).all():
                break
            image = means.T @ (means @ direction) + ridge * direction
            step = size / np.maximum((direction * image).sum(0), np.finfo(np.float32).tiny)
            found += step * direction
            residual -= step * image
            new = (residual**2).sum(0)
            direction = residual + (new / np.maximum(size, np.finfo(np.float32).tiny)) * direction
            size = new
            progress.advance()
    return found


def _means(ids: Sequence[np.ndarray], vocabulary: int):
    """Return the sparse (texts, vocabulary) matrix that takes the mean of the tokens of each text."""
    from scipy.sparse import csr_matrix

    lengths = np.array([len(one) for one in ids])
    places = np.concatenate([[0], lengths.cumsum()])
    shares = np.repeat(1.0 / np.maximum(lengths, 1), lengths).astype(np.float32)
    columns = np.concatenate(ids) if len(ids) else np.empty(0, np.int64)
    found = csr_matrix((shares, columns, places), shape=(len(ids), vocabulary), dtype=np.float32)
    found.sum_duplicates()
    return found

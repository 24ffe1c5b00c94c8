"""Rows of new tokens as mixtures of known ones that are used alike in the user's text.

After FOCUS (Dobler and de Melo 2023, arXiv 2305.14481): tokens that both vocabularies have are the anchors; every
other token that occurs in the text is a sparse mixture of the anchors nearest to it in an auxiliary space. Theirs is
fastText; ours are singular vectors of the tokens' co-occurrences (Levy and Goldberg 2014), which need no other program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.data.tokenizer import Tokenizer

_WIDTH = 128
_REACH = 5
_NEAREST = 16
_CHUNK = 2048


def recipes_by_similarity(
    old: Tokenizer, new: Tokenizer, texts: Sequence[str]
) -> dict[int, tuple[list[int], list[float]]]:
    """Return old ids and weights for each new id that is not in the old vocabulary and occurs in `texts`.

    Raises:
        InputError: if there is no text, or the vocabularies share nothing that occurs in it.
    """
    from lavra.models.vocabulary import shared_tokens

    if not texts:
        raise InputError("similar tokens are found in a text, and none was given", "give texts, or take the mean")
    vectors = auxiliary_vectors(new.encode_many(texts), new.vocabulary_size)
    seen = np.linalg.norm(vectors, axis=1) > 0
    shared = shared_tokens(old, new)
    anchors = np.array([number for number in shared if seen[number]], dtype=np.int64)
    if not len(anchors):
        raise InputError("the two vocabularies share no token that occurs in the text", "take the mean instead")
    wanted = [number for number in np.flatnonzero(seen).tolist() if number not in shared]
    recipes: dict[int, tuple[list[int], list[float]]] = {}
    for start in range(0, len(wanted), _CHUNK):
        numbers = wanted[start : start + _CHUNK]
        similar = vectors[numbers] @ vectors[anchors].T
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :_NEAREST]
        for number, places, values in zip(numbers, nearest, np.take_along_axis(similar, nearest, 1), strict=True):
            weights = sparsemax(values)
            kept = weights > 0
            ids = [shared[int(anchor)] for anchor in anchors[places[kept]]]
            recipes[number] = ids, [float(weight) for weight in weights[kept]]
    recipes.pop(new.end_of_document, None)
    return recipes


def auxiliary_vectors(documents: Sequence[np.ndarray], vocabulary: int) -> np.ndarray:
    """Return (vocabulary, width) unit vectors: tokens that stand among the same tokens are near. Zero: never seen.

    The singular vectors of the positive pointwise mutual information of tokens up to five apart.
    """
    from scipy.sparse.linalg import svds

    counts = _co_occurrences(documents, vocabulary)
    total, sums = counts.sum(), np.asarray(counts.sum(1)).ravel()
    pairs = counts.tocoo()
    information = np.log(pairs.data * total / (sums[pairs.row] * sums[pairs.col]))
    pairs.data = np.maximum(information, 0.0)
    width = min(_WIDTH, int((sums > 0).sum()) - 1)
    if width < 1:
        return np.zeros((vocabulary, 1))
    left, sizes, _ = svds(pairs.tocsr(), k=width, v0=np.ones(vocabulary))
    vectors = left * np.sqrt(sizes)
    vectors[sums == 0] = 0.0
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)


def _co_occurrences(documents: Sequence[np.ndarray], vocabulary: int) -> Any:
    """Return the symmetric sparse (vocabulary, vocabulary) counts of tokens near each other, the nearer the more."""
    from scipy.sparse import coo_matrix, csr_matrix

    counts: Any = csr_matrix((vocabulary, vocabulary))
    gap = np.full(_REACH, -1)
    stream = np.concatenate([part for document in documents for part in (document, gap)]).astype(np.int64)
    for distance in range(1, _REACH + 1):
        first, second = stream[:-distance], stream[distance:]
        inside = (first >= 0) & (second >= 0)
        weights = np.full(int(inside.sum()), 1.0 / distance)
        counts = counts + coo_matrix((weights, (first[inside], second[inside])), counts.shape).tocsr()
    return counts + counts.T


def sparsemax(values: np.ndarray) -> np.ndarray:
    """Return the probabilities nearest to `values`, most of them zero (Martins and Astudillo 2016, algorithm 1)."""
    ordered = np.sort(values)[::-1]
    sums = np.cumsum(ordered)
    ranks = np.arange(1, len(values) + 1)
    support = ranks[1 + ranks * ordered > sums].max()
    return np.maximum(values - (sums[support - 1] - 1) / support, 0.0)

"""What is measured of vectors of texts: correlation with scores, and how soon the right text is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.evaluation.comparisons import comparison_of
from lavra.evaluation.similarity import correlation_estimates, ranks_among, retrieval_estimates


class Letters:
    """An encoder that counts letters."""

    fingerprint, dimensions, longest = "letters", 26, None

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def encode(self, texts: Sequence[str], *, kind: str = "text") -> np.ndarray:
        self.asked.append((kind, len(texts)))
        return (
            np.array([[text.count(chr(97 + place)) for place in range(26)] for text in texts], dtype=np.float32) + 0.01
        )


def test_pairs_are_searched_among_all_second_texts_and_negatives():
    rows = [
        {"texts": ["aab", "aaab"], "negatives": ["abb", "zzz"]},
        {"texts": ["xyz", "xxyyzz"], "negatives": []},
        {"texts": ["aab", "aabaab"], "negatives": ["abb"]},
    ]
    compared = comparison_of(rows)
    assert list(compared.second) == ["aaab", "abb", "zzz", "xxyyzz", "aabaab"]
    assert compared.right == [frozenset({0, 4}), frozenset({3}), frozenset({0, 4})]  # both answers of one query
    encoder = Letters()
    values = compared.values(*compared.vectors(encoder))  # pyright: ignore[reportArgumentType]
    assert values.tolist() == [1.0, 1.0, 1.0]
    assert encoder.asked == [("query", 3), ("passage", 5)]
    assert compared.estimates(values)["accuracy"].value == 1.0


def test_scored_pairs_are_compared_by_their_order_and_embedded_once():
    rows = [{"texts": ["aaaa", "a" * (4 - n) + "b" * n], "target": float(-n)} for n in range(5)]
    compared, encoder = comparison_of(rows), Letters()
    found = compared.estimates(compared.values(*compared.vectors(encoder)))  # pyright: ignore[reportArgumentType]
    assert found["spearman"].value == pytest.approx(1.0)
    assert encoder.asked == [("text", 5)]  # the text that occurs six times is embedded once


def test_bare_texts_are_searched_by_half_of_their_words():
    texts = ["one two three four five", "six seven eight nine ten", "eleven twelve"]
    compared = comparison_of([{"texts": [text]} for text in texts])
    assert list(compared.second) == texts
    for copy, text in zip(compared.first, texts, strict=True):
        assert 0 < len(copy.split()) <= len(text.split())
        assert set(copy.split()) <= set(text.split())
    letters = compared.of_letters()
    assert letters is not None
    assert letters.tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.integers(0, 11))
@settings(max_examples=50, deadline=None)
def test_a_rank_counts_what_is_nearer_and_half_of_what_is_equal(similarities: list[float], own: int):
    own %= len(similarities)
    second = np.array(similarities, dtype=np.float64)[:, None]
    (rank,) = ranks_among(np.ones((1, 1)), second, [frozenset({own})])
    nearer = sum(one > similarities[own] for one in similarities)
    equal = sum(one == similarities[own] for one in similarities) - 1
    assert rank == 1 + nearer + (equal + 1) // 2
    assert 1 <= rank <= len(similarities)


def test_vectors_that_are_all_equal_find_nothing():
    ranks = ranks_among(np.ones((9, 3)), np.ones((9, 3)), [frozenset({n}) for n in range(9)])
    assert retrieval_estimates(ranks)["accuracy"].value == 0.0
    assert retrieval_estimates([1, 2, 4, 1, 1])["MRR"].value == pytest.approx(0.75)


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    one, other = random.normal(size=40).round(1), random.normal(size=40).round(1)
    found = correlation_estimates(one, other)
    assert found["spearman"].value == pytest.approx(stats.spearmanr(one, other)[0])
    assert found["pearson"].value == pytest.approx(stats.pearsonr(one, other)[0])
    assert found["spearman"].low < found["spearman"].value < found["spearman"].high  # pyright: ignore[reportOptionalOperand]

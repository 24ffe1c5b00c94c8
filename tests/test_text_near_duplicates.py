from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.text.near_duplicates import WordGrams, jaccard, near_duplicates

WORDS = [f"w{number}" for number in range(40)]


def texts_with_copies(seed: int, count: int = 60) -> list[str]:
    """Random texts, and copies of some with a few words changed."""
    rng = np.random.default_rng(seed)
    texts = [[WORDS[i] for i in rng.integers(0, 40, rng.integers(30, 120))] for _ in range(count)]
    for number in range(0, count, 3):
        copy = list(texts[number])
        for place in rng.integers(0, len(copy), number % 4):
            copy[place] = "changed"
        texts.append(copy)
    return [" ".join(words) for words in texts]


def by_hand(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """Every pair compared, on Python sets."""
    sets = []
    for text in texts:
        words = text.split()
        sets.append({tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))})
    pairs = {}
    for a, b in combinations(range(len(texts)), 2):
        share = len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        if share >= threshold:
            pairs[a, b] = share
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_every_pair_compared(seed):
    texts = texts_with_copies(seed)
    found = {(pair.first, pair.second): pair.jaccard for pair in near_duplicates(texts, 0.8)}
    assert found == pytest.approx(by_hand(texts, 0.8))
    assert len(found) >= 5


def test_between_two_collections_only_pairs_across_are_found():
    texts = texts_with_copies(1)
    left, right = texts[:60], texts[60:]
    found = {(pair.first, pair.second + 60) for pair in near_duplicates(left, 0.8, others=right)}
    assert found == {pair for pair in by_hand(texts, 0.8) if pair[0] < 60 <= pair[1]}


@given(st.lists(st.text("abc d", max_size=40), max_size=12))
def test_equal_texts_are_always_found(texts):
    found = {(pair.first, pair.second) for pair in near_duplicates(texts, 1.0)}
    words = [text.split() for text in texts]
    equal = {(a, b) for a, b in combinations(range(len(texts)), 2) if words[a] and words[a] == words[b]}
    assert equal <= found


def test_case_and_punctuation_do_not_count():
    (pair,) = near_duplicates(["Era uma vez, numa aldeia, um moleiro.", "era uma vez numa aldeia um MOLEIRO!"])
    assert pair.jaccard == 1.0


def test_texts_without_words_are_like_nothing():
    assert near_duplicates(["", "...", "", "—"]) == []
    assert jaccard(np.empty(0, np.uint64), np.empty(0, np.uint64)) == 0.0


def test_a_thousand_copies_make_a_star():
    found = near_duplicates(["the very same text of seven words"] * 1000)
    assert {(pair.first, pair.second) for pair in found} == {(0, number) for number in range(1, 1000)}
    across = near_duplicates(["one two three four five six"] * 300, others=["one two three four five six"] * 300)
    assert {pair.second for pair in across} == set(range(300))
    assert {pair.first for pair in across} == set(range(300))


def test_grams_are_sorted_and_different():
    grams = WordGrams()("a b c d e f")
    assert len(grams) == 2
    assert np.array_equal(grams, np.sort(grams))


def test_a_threshold_that_would_miss_pairs_is_refused():
    with pytest.raises(ValueError, match=r"0\.5"):
        near_duplicates([], 0.3)

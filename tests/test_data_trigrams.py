"""What follows two tokens, counted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.data.token_store.ngram_counts import Trigrams, count_trigrams

END = 0


def as_dictionary(trigrams: Trigrams) -> dict[tuple[int, int, int], float]:
    return {
        (*map(int, pair), int(follower)): float(times)
        for place, pair in enumerate(trigrams.pairs)
        for follower, times in zip(
            trigrams.followers[trigrams.starts[place] : trigrams.starts[place + 1]],
            trigrams.times[trigrams.starts[place] : trigrams.starts[place + 1]],
            strict=True,
        )
    }


@given(st.lists(st.integers(0, 5), min_size=3, max_size=200))
def test_counts_are_those_of_a_plain_loop(ids: list[int]) -> None:
    triples = Counter(zip(ids, ids[1:], ids[2:], strict=False))
    pairs = Counter(triple[:2] for triple in triples.elements())
    kept = {pair for pair, times in pairs.items() if times > 1 and pair[1] != END}
    found = count_trigrams(np.array(ids, np.uint16), 6, 1000, END)
    assert as_dictionary(found) == {triple: times for triple, times in triples.items() if triple[:2] in kept}
    assert found.covered == pytest.approx(sum(pairs[pair] for pair in kept) / (len(ids) - 2))


def test_the_most_frequent_pairs_are_kept_in_their_order() -> None:
    ids = np.array([1, 2, 3] * 5 + [4, 5] * 9, np.uint16)
    found = count_trigrams(ids, 6, 2, END)
    assert found.pairs.tolist() == [[4, 5], [5, 4]]
    assert np.diff(found.starts).tolist() == [1, 1]


def test_a_large_corpus_is_counted_in_stretches() -> None:
    ids = np.random.default_rng(0).integers(1, 9, 40_000).astype(np.uint16)
    whole, part = count_trigrams(ids, 9, 64, END), count_trigrams(ids, 9, 64, END, limit=4_000)
    assert 0.08 < part.times.sum() / whole.times.sum() < 0.12


def test_ids_of_the_largest_vocabularies_do_not_overflow() -> None:
    ids = np.array([250_000, 249_999, 250_000, 249_999, 250_000])
    assert as_dictionary(count_trigrams(ids, 250_001, 9, END)) == {(250_000, 249_999, 250_000): 2.0}


def test_two_tokens_have_no_followers() -> None:
    with pytest.raises(ValueError, match="three tokens"):
        count_trigrams(np.array([1, 2], np.uint16), 7, 9, END)

"""Counts of which token follows which."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.data.token_store.ngram_counts import Bigrams, count_bigrams


def as_dictionary(bigrams: Bigrams) -> dict[tuple[int, int], int]:
    """Return the counts by pair."""
    return {
        (int(context), int(follower)): int(times)
        for place, context in enumerate(bigrams.contexts)
        for follower, times in zip(
            bigrams.followers[bigrams.starts[place] : bigrams.starts[place + 1]],
            bigrams.times[bigrams.starts[place] : bigrams.starts[place + 1]],
            strict=True,
        )
    }


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60))
def test_counts_are_those_of_a_dictionary_and_frequent_contexts_come_first(ids: list[int]) -> None:
    found = count_bigrams(np.array(ids, np.uint16), 7)
    assert as_dictionary(found) == Counter(pairwise(ids))
    occurrences = np.add.reduceat(found.times, found.starts[:-1])
    assert list(occurrences) == sorted(occurrences, reverse=True)
    assert occurrences.sum() == len(ids) - 1


def test_a_large_corpus_is_sampled_from_end_to_end() -> None:
    ids = np.repeat(np.arange(100, dtype=np.uint32), 1000)
    found = count_bigrams(ids, 100, limit=5000)
    assert found.times.sum() == pytest.approx(5000, rel=0.01)
    assert {0, 99} <= set(found.contexts.tolist())


def test_large_ids_do_not_overflow() -> None:
    ids = np.array([250_000, 249_999, 250_000, 249_999], np.uint32)
    assert as_dictionary(count_bigrams(ids, 250_001)) == {(250_000, 249_999): 2, (249_999, 250_000): 1}


def test_one_token_has_no_follower() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        count_bigrams(np.array([1], np.uint16), 7)

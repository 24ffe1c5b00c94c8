"""Hard negatives are near and no right answers, and what is left out is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lavra.workflows.embeddings.mining import ENOUGH, NEAR_THE_ANSWER, RIGHT, Pair, choose_negatives

CITIES = ("Lisbon", "Porto", "Coimbra", "Braga", "Faro", "Aveiro")


class Overlap:
    """An encoder whose vectors say which words of a list a text has."""

    fingerprint, longest = "overlap", None
    words = ("river", "bridge", *CITIES)
    dimensions = len(words)

    def encode(self, texts: Sequence[str], *, kind: str = "text") -> np.ndarray:
        rows = np.array([[float(word.lower() in text.lower()) for word in self.words] for text in texts]) + 1e-3
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def pairs() -> list[Pair]:
    rows: list[Pair] = []
    for city in CITIES:
        rows.append(Pair(f"which river crosses {city}?", f"The river of {city} is wide and slow.", {"id": city}))
        rows.append(Pair(f"which bridge has {city}?", f"The bridge of {city} is old and narrow."))
    rows.append(Pair("which river crosses Lisbon?", "Lisbon lies where the river meets the sea."))
    return rows


def test_by_bm25_they_share_words_and_are_no_right_answers() -> None:
    found = choose_negatives(pairs(), [], None, count=2, depth=8)
    right: dict[str, set[str]] = {}
    for pair in pairs():
        right.setdefault(pair.query, set()).add(pair.passage)
    assert len(found.negatives) == len(pairs()) == 13
    for pair, negatives in zip(pairs(), found.negatives, strict=True):
        assert negatives
        assert not right[pair.query] & set(negatives)
        assert len(negatives) <= 2
    assert found.left_out[RIGHT] > 0
    assert found.left_out[ENOUGH] > 0
    assert found.ranks[0] == 1


def test_a_margin_leaves_out_what_may_be_an_answer_too() -> None:
    further = ["In Porto the river runs fast.", "Nothing of all that."]
    found = choose_negatives(pairs(), further, Overlap(), count=9, margin=0.05)
    porto = found.negatives[[pair.query for pair in pairs()].index("which river crosses Porto?")]
    assert "In Porto the river runs fast." not in porto  # as near as the right one by the model
    assert "The bridge of Porto is old and narrow." in porto
    assert found.left_out[NEAR_THE_ANSWER] > 0
    wider = choose_negatives(pairs(), further, Overlap(), count=9, margin=0.9)
    assert wider.left_out[NEAR_THE_ANSWER] > found.left_out[NEAR_THE_ANSWER]
    assert sum(map(len, wider.negatives)) < sum(map(len, found.negatives))
    kept = choose_negatives(pairs(), further, Overlap(), count=20, margin=None)
    assert NEAR_THE_ANSWER not in kept.left_out


def test_pairs_without_a_negative_have_an_empty_list() -> None:
    found = choose_negatives([Pair("which river?", "The river."), Pair("which hill?", "The river.")], [], None)
    assert found.negatives == [[], []]
    assert found.ranks == [1.0, float("inf")]

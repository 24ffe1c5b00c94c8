"""Which examples a prompt shows: some at random, those most like the text, or a set that stands for all (vote-k)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lavra.core.seeds import numpy_stream

Choice = Literal["random", "similar", "vote-k"]

NEIGHBOURS, DISCOUNT = 150, 10.0
"""Of vote-k, as in its paper: edges of a text, and how much less a text counts for each chosen neighbour."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text and its label."""

    text: str
    label: str


class ExampleChooser:
    """Chooses examples for texts.

    Args:
        examples: to choose from.
        count: how many a prompt shows; all of them where there are not so many.
        choice: "random": the same ones for every text, as many of each label as may be; "similar": the nearest by
            cosine of tf-idf of words, the nearest last, next to the text; "vote-k": the same ones for every text,
            each standing for many others (fast vote-k, Su et al. 2022, arXiv 2209.01975, section 2.2).
        seed: of the random choice.
    """

    def __init__(self, examples: Sequence[Example], count: int, choice: Choice = "random", seed: int = 0) -> None:
        self._examples, self._count, self._choice = list(examples), min(count, len(examples)), choice
        self._index = _WordVectors([one.text for one in examples]) if choice != "random" else None
        if choice == "random":
            self._fixed = _balanced(self._examples, self._count, seed)
        elif choice == "vote-k" and self._index is not None:
            self._fixed = vote_k(self._index.vectors @ self._index.vectors.T, self._count)

    def for_text(self, text: str) -> list[Example]:
        """Return the examples that the prompt of a text shows, in their order."""
        if self._choice != "similar" or self._index is None:
            return [self._examples[number] for number in self._fixed]
        likeness = self._index.vectors @ self._index.vector(text)
        nearest = np.argsort(-likeness, kind="stable")[: self._count]
        return [self._examples[number] for number in nearest[::-1]]


def vote_k(likeness: NDArray[np.float64], count: int) -> list[int]:
    """Return `count` places, each time the one whose not yet represented neighbours are the most.

    Args:
        likeness: (texts, texts); each text votes for the `NEIGHBOURS` most like it.
        count: how many to choose.
    """
    texts = len(likeness)
    votes = np.zeros((texts, texts), dtype=np.bool_)  # votes[voter, candidate]
    others = likeness - 2 * np.eye(texts) * np.abs(likeness).max(initial=1.0)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, : min(NEIGHBOURS, texts - 1)]
    np.put_along_axis(votes, nearest, True, axis=1)
    chosen: list[int] = []
    for _ in range(min(count, texts)):
        weight = DISCOUNT ** -votes[:, chosen].sum(1)
        weight[chosen] = 0.0  # those that are chosen need nobody to stand for them
        score = weight @ votes
        score[chosen] = -1.0
        chosen.append(int(score.argmax()))
    return chosen


def _balanced(examples: list[Example], count: int, seed: int) -> list[int]:
    """Return places in random order, taking from the labels in turn."""
    order = numpy_stream(seed, "examples").permutation(len(examples)).tolist()
    turns: Counter[str] = Counter()
    turn = {}
    for place in order:
        turn[place] = turns[examples[place].label]
        turns[examples[place].label] += 1
    return sorted(order, key=lambda place: turn[place])[:count]


class _WordVectors:
    """Tf-idf vectors of length one over lower-case words."""

    def __init__(self, texts: Sequence[str]) -> None:
        words = [_words(text) for text in texts]
        document_counts = Counter(word for mine in words for word in set(mine))
        self._column = {word: number for number, word in enumerate(sorted(document_counts))}
        total = len(texts)
        self._weight = np.array([np.log((1 + total) / (1 + document_counts[word])) + 1 for word in self._column])
        self.vectors = np.stack([self._of(mine) for mine in words]) if texts else np.zeros((0, 0))

    def vector(self, text: str) -> NDArray[np.float64]:
        """Return the vector of a text; words that no example has count for nothing."""
        return self._of(_words(text))

    def _of(self, words: list[str]) -> NDArray[np.float64]:
        vector = np.zeros(len(self._column))
        for word, count in Counter(words).items():
            if word in self._column:
                vector[self._column[word]] = count
        vector *= self._weight
        return vector / (np.linalg.norm(vector) or 1.0)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())

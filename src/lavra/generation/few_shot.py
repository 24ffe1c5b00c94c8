"""Few-shot examples for a prompt: chosen at random, by similarity to the text, or as a representative set (vote-k)."""

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
"""Ways to choose examples; see `ExampleChooser`."""

NEIGHBOURS = 150
"""Parameters of vote-k, as in its paper: the number of texts that each text votes for, and the factor by which its vote
counts less for each of them that is chosen already."""
DISCOUNT = 10.0


@dataclass(frozen=True, slots=True)
class Example:
    """A text and its label.

    Attributes:
        text: Text of the example.
        label: Label that the prompt shows for it.
    """

    text: str
    label: str


class ExampleChooser:
    """Chooses the examples that the prompt of a text shows.

    Args:
        examples: Examples to choose from.
        count: Number of examples that a prompt shows; all of them where there are fewer.
        choice: "random" takes the same examples for every text, as evenly from the labels as possible. "similar" takes
            the examples most similar to the text, by the cosine of their tf-idf vectors of words, and puts the most
            similar one last, next to the text. "vote-k" takes the same examples for every text, each of which stands
            for many others (fast vote-k, Su et al. 2022, arXiv 2209.01975, section 2.2).
        seed: Seed of the random choice.

    Examples:
        >>> examples = [Example("the cat sleeps", "animal"), Example("the car starts", "machine")]
        >>> chooser = ExampleChooser(examples, count=1, choice="similar")
        >>> chooser.for_text("my cat")[0].label
        'animal'
    """

    def __init__(self, examples: Sequence[Example], count: int, choice: Choice = "random", seed: int = 0) -> None:
        self._examples, self._count, self._choice = list(examples), min(count, len(examples)), choice
        self._index = _WordVectors([one.text for one in examples]) if choice != "random" else None
        if choice == "random":
            self._fixed = _balanced(self._examples, self._count, seed)
        elif choice == "vote-k" and self._index is not None:
            self._fixed = vote_k(self._index.vectors @ self._index.vectors.T, self._count)

    def for_text(self, text: str) -> list[Example]:
        """Return the examples that the prompt of a text shows, in the order of the prompt.

        Args:
            text: Text to classify.
        """
        if self._choice != "similar" or self._index is None:
            return [self._examples[number] for number in self._fixed]
        likeness = self._index.vectors @ self._index.vector(text)
        nearest = np.argsort(-likeness, kind="stable")[: self._count]
        return [self._examples[number] for number in nearest[::-1]]


def vote_k(likeness: NDArray[np.float64], count: int) -> list[int]:
    """Return the places of representative texts by fast vote-k (Su et al. 2022, arXiv 2209.01975, section 2.2).

    Each text votes for the `NEIGHBOURS` texts most similar to it. The text with the most votes is chosen, one after
    another, and the vote of a text counts less for each text that it voted for and that is chosen already. So every
    new choice stands for texts that none of the earlier ones stands for.

    Args:
        likeness: Similarity of each two texts, (texts, texts).
        count: Number of texts to choose; all are chosen where there are fewer.

    Examples:
        >>> sorted(vote_k(np.eye(3), count=5))
        [0, 1, 2]
    """
    texts = len(likeness)
    votes = np.zeros((texts, texts), dtype=np.bool_)  # votes[voter, candidate]
    others = likeness - 2 * np.eye(texts) * np.abs(likeness).max(initial=1.0)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, : min(NEIGHBOURS, texts - 1)]
    np.put_along_axis(votes, nearest, True, axis=1)
    chosen: list[int] = []
    for _ in range(min(count, texts)):
        weight = DISCOUNT ** -votes[:, chosen].sum(1)
        weight[chosen] = 0.0  # a chosen text needs no other text to stand for it
        score = weight @ votes
        score[chosen] = -1.0
        chosen.append(int(score.argmax()))
    return chosen


def _balanced(examples: list[Example], count: int, seed: int) -> list[int]:
    """Return places of examples in random order, taken from the labels in turn."""
    order = numpy_stream(seed, "examples").permutation(len(examples)).tolist()
    turns: Counter[str] = Counter()
    turn = {}
    for place in order:
        turn[place] = turns[examples[place].label]
        turns[examples[place].label] += 1
    return sorted(order, key=lambda place: turn[place])[:count]


class _WordVectors:
    """Tf-idf vectors of lower-case words, scaled to length 1; the idf is smoothed as in scikit-learn."""

    def __init__(self, texts: Sequence[str]) -> None:
        words = [_words(text) for text in texts]
        document_counts = Counter(word for mine in words for word in set(mine))
        self._column = {word: number for number, word in enumerate(sorted(document_counts))}
        total = len(texts)
        self._weight = np.array([np.log((1 + total) / (1 + document_counts[word])) + 1 for word in self._column])
        self.vectors = np.stack([self._of(mine) for mine in words]) if texts else np.zeros((0, 0))

    def vector(self, text: str) -> NDArray[np.float64]:
        """Return the vector of a text, (words of the examples,); words that no example has are ignored."""
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

"""Rows on both sides of a split: test texts that are equal or nearly equal to a training text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.text.near_duplicates import THRESHOLD, near_duplicates

MOST_COMPARED = 100_000
"""Most texts on both sides together among which near duplicates are looked for."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A row of one side of a split that stands on the other side too.

    Attributes:
        test: Index of the test row.
        training: Index of the training row that is most like it.
        jaccard: Share of their word 5-grams that both have, from 0.8 on; 1 for equal texts.
        exact: Whether the texts are equal but for white space at their ends.
    """

    test: int
    training: int
    jaccard: float
    exact: bool


@dataclass(frozen=True)
class Leaks:
    """The rows of a test set that stand in the training rows too.

    Attributes:
        found: The leaks, one for each test row that leaks, in the order of the test rows.
        tests: Number of test rows.
        near: Whether near duplicates were looked for too, and not equal texts alone.
    """

    found: tuple[Leak, ...]
    tests: int
    near: bool = True

    def rows(self) -> NDArray[np.int64]:
        """Return the indices of the test rows that leak."""
        return np.array([leak.test for leak in self.found], dtype=np.int64)

    @property
    def exact(self) -> int:
        """Number of test rows that stand in the training rows word for word."""
        return sum(leak.exact for leak in self.found)

    def places(self, most: int = 3, training: Sequence[str] = (), test: Sequence[str] = ()) -> str:
        """Return the places of the first leaks, such as "test row 1 = training row 2"; "≈" for nearly equal ones.

        Args:
            most: Most leaks that are named.
            training: Place of each training row; by default its number from 1.
            test: Place of each test row; by default its number from 1.
        """
        named = [
            f"{test[leak.test] if test else f'test row {leak.test + 1}'} {'=' if leak.exact else '≈'} "
            f"{training[leak.training] if training else f'training row {leak.training + 1}'}"
            for leak in self.found[:most]
        ]
        return ", ".join(named) + (", …" if len(self.found) > most else "")

    def sentence(self, what: str = "test", places: str | None = None) -> str:
        """Return what was found in words.

        Args:
            what: What the rows of the other side are: "test" or "validation".
            places: The places of the first ones; None for what `places` returns.
        """
        near = "" if self.near else " word for word; with so many rows, near duplicates were not looked for"
        if not self.found:
            return f"none of the {self.tests:,} {what} rows stands in the training rows too{near}"
        return (
            f"{len(self.found):,} of {self.tests:,} {what} rows ({len(self.found) / self.tests:.1%}) stand in the "
            f"training rows too, {self.exact:,} word for word ({self.places() if places is None else places})"
        )

    def to_json(self, sentence: str = "") -> dict[str, Any]:
        """Return the numbers of rows, of leaks, and of exact ones, as plain values.

        Args:
            sentence: What was found in words, which is kept too; by default as `sentence` says it.
        """
        counts = {"rows": self.tests, "leaks": len(self.found), "exact": self.exact, "near_duplicates": self.near}
        return {**counts, "sentence": sentence or self.sentence()}


def leaks_between(
    training: Sequence[str], test: Sequence[str], *, threshold: float = THRESHOLD, most: int = MOST_COMPARED
) -> Leaks:
    """Return which test texts are equal or nearly equal to a training text.

    Args:
        training: Training texts.
        test: Test texts.
        threshold: Smallest Jaccard index of word 5-grams that counts, from 0.5 to 1.
        most: Most texts on both sides together among which near duplicates are looked for; of more, equal ones alone.

    Examples:
        >>> leaks_between(["a fine film", "a bad film"], ["a bad film ", "a new film"]).sentence()
        '1 of 2 test rows (50.0%) stand in the training rows too, 1 word for word (test row 1 = training row 2)'
    """
    first = {text.strip(): number for number, text in reversed(list(enumerate(training)))}
    found: dict[int, Leak] = {}
    for number, text in enumerate(test):
        if text.strip() in first:
            found[number] = Leak(number, first[text.strip()], 1.0, exact=True)
    near = len(training) + len(test) <= most
    for pair in near_duplicates(training, threshold, others=test) if near else ():
        known = found.get(pair.second)
        if known is None or (not known.exact and pair.jaccard > known.jaccard):
            found[pair.second] = Leak(pair.second, pair.first, pair.jaccard, exact=False)
    return Leaks(tuple(found[number] for number in sorted(found)), len(test), near)

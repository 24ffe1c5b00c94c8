"""Rows on both sides of a split: test texts that are equal or nearly equal to a training text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavra.text.near_duplicates import THRESHOLD, near_duplicates


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
    """

    found: tuple[Leak, ...]
    tests: int

    def rows(self) -> NDArray[np.int64]:
        """Return the indices of the test rows that leak."""
        return np.array([leak.test for leak in self.found], dtype=np.int64)

    def sentence(self, most: int = 3) -> str:
        """Return what was found, with the places of the first ones; rows are counted from 1."""
        if not self.found:
            return f"none of the {self.tests:,} test rows stands in the training rows too"
        exact = sum(leak.exact for leak in self.found)
        examples = ", ".join(
            f"test row {leak.test + 1} = training row {leak.training + 1}"
            if leak.exact
            else f"test row {leak.test + 1} ≈ training row {leak.training + 1}"
            for leak in self.found[:most]
        )
        return (
            f"{len(self.found):,} of {self.tests:,} test rows ({len(self.found) / self.tests:.1%}) stand in the "
            f"training rows too, {exact:,} word for word ({examples}{', …' if len(self.found) > most else ''})"
        )


def leaks_between(training: Sequence[str], test: Sequence[str], *, threshold: float = THRESHOLD) -> Leaks:
    """Return which test texts are equal or nearly equal to a training text.

    Args:
        training: Training texts.
        test: Test texts.
        threshold: Smallest Jaccard index of word 5-grams that counts, from 0.5 to 1.

    Examples:
        >>> leaks_between(["a fine film", "a bad film"], ["a bad film ", "a new film"]).sentence()
        '1 of 2 test rows (50.0%) stand in the training rows too, 1 word for word (test row 1 = training row 2)'
    """
    first = {text.strip(): number for number, text in reversed(list(enumerate(training)))}
    found: dict[int, Leak] = {}
    for number, text in enumerate(test):
        if text.strip() in first:
            found[number] = Leak(number, first[text.strip()], 1.0, exact=True)
    for pair in near_duplicates(training, threshold, others=test):
        known = found.get(pair.second)
        if known is None or (not known.exact and pair.jaccard > known.jaccard):
            found[pair.second] = Leak(pair.second, pair.first, pair.jaccard, exact=False)
    return Leaks(tuple(found[number] for number in sorted(found)), len(test))

"""Choosing k1 and b on a validation split: each pair is scored from the same counts, nothing is indexed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lavra.core.seeds import numpy_stream
from lavra.search.generation import Generation
from lavra.search.retrieval import JudgedQuery, evaluate

K1 = (0.6, 0.9, 1.2, 1.6, 2.0, 2.5)
B = (0.2, 0.4, 0.6, 0.75, 0.9)
"""The grid: from what is usual for passages (0.9, 0.4) to what suits expanded passages (2.18, 0.86 on MS MARCO)."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The outcome of a search over k1 and b.

    Attributes:
        k1: the best.
        b: the best.
        measure: by which.
        value: its mean with them.
        tried: every (k1, b, value), in the order of the grid.
        queries: number of validation queries used.
    """

    k1: float
    b: float
    measure: str
    value: float
    tried: tuple[tuple[float, float, float], ...]
    queries: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        return {name: getattr(self, name) for name in self.__slots__}


def tune(
    generation: Generation,
    queries: Sequence[JudgedQuery],
    *,
    measure: str = "MRR@10",
    most_queries: int = 1000,
    seed: int = 0,
) -> Tuning:
    """Try the grid of k1 and b on validation queries and return the best pair; of equal ones the first.

    Args:
        generation: built with `keep_counts`.
        queries: of the validation split, never those that are reported on.
        measure: what is to be high.
        most_queries: a random sample of this many is used when there are more.
        seed: for the sample.
    """
    if len(queries) > most_queries:
        drawn = numpy_stream(seed, "queries for tuning").permutation(len(queries))[:most_queries]
        queries = [queries[number] for number in sorted(drawn.tolist())]
    tried = []
    for k1 in K1:
        for b in B:
            scored = Generation(generation.folder, generation.postings.with_parameters(k1, b))
            tried.append((k1, b, evaluate(scored, queries, (measure,), depth=100).means()[measure]))
    k1, b, value = max(tried, key=lambda one: one[2])
    return Tuning(k1, b, measure, value, tuple(tried), len(queries))

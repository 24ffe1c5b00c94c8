"""Choosing k1, b and the weight of generated queries on a validation split, from counts that are there already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lavra.core.seeds import numpy_stream
from lavra.search.generation import Generation
from lavra.search.index import Index
from lavra.search.retrieval import JudgedQuery, evaluate

K1 = (0.4, 0.6, 0.9, 1.2, 1.6, 2.2)
B = (0.2, 0.4, 0.6, 0.75, 0.9, 1.0)
"""The grid: from what is usual for passages (0.9, 0.4) to what suits expanded passages (2.18, 0.86 on MS MARCO)."""


QUERY_WEIGHTS = (0.125, 0.25, 0.5, 1.0)
"""Weights of generated queries that are tried; below 1 they lengthen their document less, often for the better."""

_WEIGHTED = ("doc+queries", "doc+new-terms")


@dataclass(frozen=True, slots=True)
class Tuning:
    """The outcome of a search over k1, b and the weight of generated queries.

    Attributes:
        k1: the best.
        b: the best.
        query_weight: the best.
        measure: by which.
        value: its mean with them.
        tried: every (k1, b, query weight, value), in the order of the grid.
        queries: number of validation queries used.
    """

    k1: float
    b: float
    query_weight: float
    measure: str
    value: float
    tried: tuple[tuple[float, float, float, float], ...]
    queries: int

    @property
    def changes(self) -> dict[str, float]:
        """The settings of an index that were found."""
        return {"k1": self.k1, "b": self.b, "query_weight": self.query_weight}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        return {name: getattr(self, name) for name in self.__slots__}


def tune(
    index: Index,
    queries: Sequence[JudgedQuery],
    folder: Path,
    *,
    changes: Mapping[str, Any] | None = None,
    measure: str = "MRR@10",
    most_queries: int = 1000,
    seed: int = 0,
) -> Tuning:
    """Try the grid of k1 and b, and weights where there are queries to weigh; of equally good settings take the first.

    Args:
        index: is not changed.
        queries: of the validation split, never those that are reported on.
        folder: for the postings of each weight; must not exist.
        changes: settings that differ from the index's, e.g. its fields.
        measure: what is to be high.
        most_queries: a random sample of this many is used when there are more.
        seed: for the sample.
    """
    if len(queries) > most_queries:
        drawn = numpy_stream(seed, "queries for tuning").permutation(len(queries))[:most_queries]
        queries = [queries[number] for number in sorted(drawn.tolist())]
    settings = dataclasses.replace(index.settings, **(changes or {}))
    weighed = settings.fields in _WEIGHTED and index.generated_queries[0]
    tried = []
    for number, weight in enumerate(QUERY_WEIGHTS if weighed else (settings.query_weight,)):
        wanted = {**(changes or {}), "query_weight": weight}
        generation = index.variant(folder / f"weight-{number}", keep_counts=True, **wanted)
        for k1, b in product(K1, B):
            scored = Generation(generation.folder, generation.postings.with_parameters(k1, b))
            value = evaluate(scored, queries, (measure,), depth=100).means()[measure]
            tried.append((k1, b, weight, value))
    *best, value = max(tried, key=lambda one: one[-1])
    return Tuning(*best, measure=measure, value=value, tried=tuple(tried), queries=len(queries))

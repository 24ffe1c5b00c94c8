"""Choosing k1, b and the queries' weight on a validation split; and the most that expansion could bring."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lavra.core.seeds import numpy_stream
from lavra.evaluation.retrieval import MEASURES, Qrels, RetrievalScores
from lavra.search.corpora.documents import Document
from lavra.search.corpora.formats import Collection
from lavra.search.experiment.retrieval import JudgedQuery, evaluate, judged_queries
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.search.index.snapshot import Generation

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


def evaluate_ceiling(
    collection: Collection,
    queries: Mapping[str, str],
    qrels: Qrels,
    settings: IndexSettings,
    folder: Path,
    *,
    validation: Qrels | None = None,
    folds: int = 5,
    seed: int = 0,
) -> RetrievalScores:
    """Measure an index whose documents carry their human questions, each question asked where it is not indexed.

    The judged queries are dealt into folds; the queries of a fold are asked of an index in which every document is
    expanded with the relevant queries of the other folds. A generator that writes as people ask, as many queries as
    there are questions, would come near it: its gain can be given as a share of this one.

    Args:
        collection: the documents.
        queries: id -> text.
        qrels: whose queries are asked, and used to expand.
        settings: of the index; its fields should hold the queries.
        folder: for the indexes of the folds; must not exist.
        validation: judgements on which k1, b and weight are tuned, in the first fold; else the settings' hold.
        folds: number of parts, at least two.
        seed: for the dealing.
    """
    names = sorted(query for query in qrels if query in queries)
    fold_of = dict(zip(names, (numpy_stream(seed, "folds").permutation(len(names)) % folds).tolist(), strict=True))
    parts = []
    for fold in range(folds):
        asked: dict[str, list[str]] = {}
        for query in names:
            for document, grade in qrels[query].items():
                if grade >= 1 and fold_of[query] != fold:
                    asked.setdefault(document, []).append(queries[query])
        index = Index.create(folder / f"fold-{fold}", settings)
        with index.update() as update:
            for one in collection.documents():
                update.put(Document(one.id, one.text, one.title, tuple(asked.get(one.id, ())), one.place))
        index = Index(index.folder)
        if validation and not fold:
            found = tune(index, judged_queries(index, queries, validation), folder / "tuning", seed=seed)
            settings = dataclasses.replace(settings, **found.changes)
            index = index.change_settings(**found.changes)
        assert index.generation is not None
        judged = judged_queries(index, queries, {query: qrels[query] for query in names if fold_of[query] == fold})
        parts.append(evaluate(index.generation, judged, MEASURES))
    order = np.argsort([query for part in parts for query in part.queries], kind="stable")
    return RetrievalScores(
        tuple(names),
        MEASURES,
        np.concatenate([part.values for part in parts])[order],
        sum(part.unanswered for part in parts),
    )

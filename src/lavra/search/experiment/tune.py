"""Tuning k1, b and the weight of queries on a validation split, and the oracle, the most that expansion could gain."""

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
from lavra.search.index.snapshot import Snapshot

K1 = (0.4, 0.6, 0.9, 1.2, 1.6, 2.2)
"""Values of k1 in the grid."""

B = (0.2, 0.4, 0.6, 0.75, 0.9, 1.0)
"""Values of b in the grid. The grid reaches from the usual values for passages (k1 0.9, b 0.4) to those that suit
expanded passages (k1 2.18, b 0.86 on MS MARCO)."""

QUERY_WEIGHTS = (0.125, 0.25, 0.5, 1.0)
"""Weights of generated queries in the grid. Below 1 the queries make their document less long, which often helps."""

_WEIGHTED = ("doc+queries", "doc+new-terms")
"""Fields in which the weight of queries matters, because they hold the text too."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result of a grid search over k1, b and the weight of generated queries.

    Attributes:
        k1: The best k1.
        b: The best b.
        query_weight: The best weight of generated queries.
        measure: The name of the measure that was maximised.
        value: The mean of the measure with the best values.
        tried: Every (k1, b, query weight, value), in the order of the grid.
        queries: Number of validation queries.
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
        """The best values as settings of an index."""
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
    """Tune k1, b and, where there are generated queries, their weight by grid search.

    Args:
        index: The index, which is not changed.
        queries: The queries of the validation split, none of which is reported on.
        folder: The folder for the postings of each weight, which must not exist.
        changes: Settings that differ from those of the index, such as its fields.
        measure: The name of the measure to maximise.
        most_queries: Most queries; a random sample is taken where there are more.
        seed: Seed of the sample.

    Returns:
        The best values, the first ones of the grid among equally good ones.
    """
    if len(queries) > most_queries:
        drawn = numpy_stream(seed, "queries for tuning").permutation(len(queries))[:most_queries]
        queries = [queries[number] for number in sorted(drawn.tolist())]
    settings = dataclasses.replace(index.settings, **(changes or {}))
    weighed = settings.fields in _WEIGHTED and index.generated_queries[0]
    tried = []
    for number, weight in enumerate(QUERY_WEIGHTS if weighed else (settings.query_weight,)):
        wanted = {**(changes or {}), "query_weight": weight}
        snapshot = index.variant(folder / f"weight-{number}", keep_counts=True, **wanted)
        for k1, b in product(K1, B):
            scored = Snapshot(snapshot.folder, snapshot.postings.with_parameters(k1, b))
            value = evaluate(scored, queries, (measure,), depth=100).means()[measure]
            tried.append((k1, b, weight, value))
    *best, value = max(tried, key=lambda one: one[-1])
    return Tuning(*best, measure=measure, value=value, tried=tuple(tried), queries=len(queries))


def evaluate_oracle(
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
    """Measure the oracle: documents expanded with the questions of people, by cross-validation.

    The judged queries are split into folds. The queries of a fold search an index in which every document is expanded
    with the relevant queries of the other folds. A generator that writes like people, and as many queries as there are
    questions, would come near this result, so that its gain can be given as a share of the oracle's.

    Args:
        collection: The collection of documents.
        queries: The text of each query by its id.
        qrels: The relevance judgements, whose queries are searched for and used for expansion.
        settings: The settings of the index, whose fields should include the queries.
        folder: The folder for the indexes of the folds, which must not exist.
        validation: Judgements on which k1, b and the weight of queries are tuned in the first fold; None for the values
            of the settings.
        folds: Number of folds, at least 2.
        seed: Seed of the split into folds.

    Returns:
        The scores of every judged query.
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
        assert index.snapshot is not None
        judged = judged_queries(index, queries, {query: qrels[query] for query in names if fold_of[query] == fold})
        parts.append(evaluate(index.snapshot, judged, MEASURES))
    order = np.argsort([query for part in parts for query in part.queries], kind="stable")
    return RetrievalScores(
        tuple(names),
        MEASURES,
        np.concatenate([part.values for part in parts])[order],
        sum(part.unanswered for part in parts),
    )

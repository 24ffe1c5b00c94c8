"""How much expansion could bring: the documents expanded with the questions that people really asked of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lavra.core.seeds import numpy_stream
from lavra.evaluation.retrieval import MEASURES, Qrels, RetrievalScores
from lavra.search.documents import Document
from lavra.search.formats import Collection
from lavra.search.index import Index
from lavra.search.retrieval import evaluate, judged_queries
from lavra.search.settings import IndexSettings
from lavra.search.tune import tune


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

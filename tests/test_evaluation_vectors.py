"""Retrieval and clustering measures of vectors are those of the libraries that everybody uses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.evaluation.clustering import agreement, cluster_vectors
from lavra.evaluation.vector_retrieval import vector_retrieval

metrics = pytest.importorskip("sklearn.metrics")

NUMBERS = st.lists(st.integers(0, 4), min_size=6, max_size=40)


@given(NUMBERS, st.integers(0, 99))
def test_agreement_is_that_of_scikit_learn(classes: list[int], seed: int) -> None:
    clusters = np.random.default_rng(seed).integers(0, 3, len(classes))
    found = agreement(clusters, np.array(classes), draws=20)
    assert found["v_measure"].value == pytest.approx(metrics.v_measure_score(classes, clusters), abs=1e-9)
    expected = metrics.normalized_mutual_info_score(classes, clusters)
    assert found["v_measure"].value == pytest.approx(expected, abs=1e-9)
    assert found["homogeneity"].value == pytest.approx(metrics.homogeneity_score(classes, clusters), abs=1e-9)
    assert found["completeness"].value == pytest.approx(metrics.completeness_score(classes, clusters), abs=1e-9)
    assert found["adjusted_rand"].value == pytest.approx(metrics.adjusted_rand_score(classes, clusters), abs=1e-9)


def test_clusters_of_separate_labels_are_found_and_the_interval_holds_the_value() -> None:
    random = np.random.default_rng(0)
    labels = ["a", "b", "c"] * 30
    centres = {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]}
    near = np.array([centres[label] for label in labels]) + random.normal(0, 0.05, (90, 3))
    assert cluster_vectors(near.astype(np.float32), labels, draws=50).v_measure.value == pytest.approx(1.0)
    far = np.array([centres[label] for label in labels]) + random.normal(0, 0.5, (90, 3))
    found = cluster_vectors(far.astype(np.float32), labels, draws=200)
    assert found.v_measure.low is not None
    assert found.v_measure.high is not None
    assert found.v_measure.low < found.v_measure.value < found.v_measure.high
    assert found.to_json()["adjusted_rand"]["value"] < 1
    with pytest.raises(InputError, match="give one label for each text"):
        cluster_vectors(near.astype(np.float32), labels[1:])


def test_retrieval_by_vectors_is_exact_and_breaks_ties_as_trec_eval() -> None:
    measures = pytest.importorskip("ir_measures")
    random = np.random.default_rng(1)
    passages = random.integers(-2, 3, (60, 4)).astype(np.float32)  # small whole numbers give many ties
    queries = random.integers(-2, 3, (12, 4)).astype(np.float32)
    names = [f"p{number}" for number in random.permutation(60)]
    asked = [f"q{number}" for number in range(12)]
    qrels = {
        name: {f"p{one}": 1 + int(one) % 2 for one in random.choice(60, 5, replace=False)} for name in [*asked, "q99"]
    }
    named = ("nDCG@10", "MRR", "MAP", "Recall@100")
    found = vector_retrieval(queries, asked, passages, names, qrels, measures=named, depth=20)
    assert found.unanswered == 1
    run = {}
    for name, vector in zip(asked, queries, strict=True):
        scores = dict(zip(names, (passages @ vector).tolist(), strict=True))
        best = sorted(scores, key=lambda one: (scores[one], one), reverse=True)[:20]
        run[name] = {one: scores[one] for one in best}
    wanted = [measures.nDCG @ 10, measures.RR, measures.AP, measures.R @ 100]
    theirs = measures.calc_aggregate(wanted, qrels, {**run, "q99": {}})
    ours = found.means()
    for one, name in zip(wanted, named, strict=True):
        assert ours[name] == pytest.approx(theirs[one], abs=1e-9)


def test_vectors_that_do_not_fit_are_refused() -> None:
    one = np.ones((1, 2), np.float32)
    with pytest.raises(InputError, match="queries of 3 dimensions cannot be compared"):
        vector_retrieval(np.ones((1, 3), np.float32), ["q"], one, ["p"], {"q": {"p": 1}})
    with pytest.raises(InputError, match="needs an id of its own"):
        vector_retrieval(one, ["q"], np.ones((2, 2), np.float32), ["p", "p"], {"q": {"p": 1}})

"""Retrieval measures against trec_eval, including planted ties, near-ties and unanswered queries."""

from __future__ import annotations

import numpy as np
import pytest

from lavra.core.errors import InputError
from lavra.evaluation.retrieval import (
    UNJUDGED,
    mean_estimates,
    measure_ranking,
    parse_measure,
)
from retrieval_runs import evaluate_run, ranking

PYTREC_NAMES = {
    "nDCG@10": "ndcg_cut_10",
    "MAP": "map",
    "Recall@100": "recall_100",
    "Recall@1000": "recall_1000",
    "MRR": "recip_rank",
    "P@5": "P_5",
}


def random_case(seed: int) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Judgements with grades -1 to 3 and a run full of ties; some queries unanswered, some without a relevant one."""
    random = np.random.default_rng(seed)
    documents = [f"d{number}" for number in range(150)] + ["é1", "Z9", "doc#3", "doc#12"]
    qrels, run = {}, {}
    for number in range(30):
        judged = random.choice(documents, random.integers(1, 30), replace=False)
        grades = random.integers(-1, 4, len(judged)) if number % 7 else np.zeros(len(judged), dtype=int)
        qrels[f"q{number}"] = {str(name): int(grade) for name, grade in zip(judged, grades, strict=True)}
        if number % 5 == 0:
            continue
        found = random.choice(documents, random.integers(1, len(documents)), replace=False)
        scores = random.integers(0, 6, len(found)) / 3 + 1e-9 * random.integers(0, 2, len(found))
        run[f"q{number}"] = {str(name): float(score) for name, score in zip(found, scores, strict=True)}
    run["not judged"] = {"d1": 1.0}
    return qrels, run


@pytest.mark.parametrize("seed", range(6))
def test_measures_equal_trec_eval_with_ties_and_unanswered_queries(seed: int) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, run = random_case(seed)
    ours = evaluate_run(qrels, run, tuple(PYTREC_NAMES))
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(PYTREC_NAMES.values())).evaluate(run)
    assert ours.unanswered == 6
    for row, query in enumerate(ours.queries):
        for column, measure in enumerate(ours.measures):
            expected = theirs[query][PYTREC_NAMES[measure]] if query in theirs else 0.0
            assert ours.values[row, column] == pytest.approx(expected, abs=1e-12), (query, measure)


@pytest.mark.parametrize("seed", range(3))
def test_reciprocal_rank_with_cutoff_and_judged_equal_ir_measures_without_its_tie_rule(seed: int) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    qrels, run = random_case(seed)
    untied = {  # ir-measures breaks ties the other way for these two, so they are broken beforehand
        query: {name: -float(place) for place, name in enumerate(ranking(results))} for query, results in run.items()
    }
    names = {"MRR@10": "RR@10", "Judged@10": "Judged@10"}
    ours = evaluate_run(qrels, run, tuple(names))
    wanted = {ir_measures.parse_measure(name): ours_name for ours_name, name in names.items()}
    seen = 0
    for metric in ir_measures.iter_calc(list(wanted), qrels, untied):
        row = ours.queries.index(metric.query_id)
        assert ours.of(wanted[metric.measure])[row] == pytest.approx(metric.value, abs=1e-12)
        seen += metric.query_id in run
    assert seen >= 2 * 24


def test_means_count_unanswered_queries_as_zero() -> None:
    scores = evaluate_run({"a": {"d": 1}, "b": {"d": 1}}, {"a": {"d": 1.0}})
    assert scores.unanswered == 1
    assert scores.means()["MRR@10"] == 0.5
    assert scores.estimates()["MRR@10"].low is None


def test_intervals_of_many_queries_stay_within_what_a_mean_can_be() -> None:
    values = np.ones((10_570, 1))
    values[:50] = 0.0
    estimate = mean_estimates(values, ["Recall@1000"])["Recall@1000"]
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0.992 < estimate.low < estimate.value < estimate.high <= 1.0


def test_ties_go_to_the_higher_id_and_scores_are_compared_as_32_bit_floats() -> None:
    assert ranking({"a": 1.0, "b": 1.0, "c": 2.0}) == ["c", "b", "a"]
    assert ranking({"a": 1.0 + 1e-12, "b": 1.0}) == ["b", "a"]


def test_an_unjudged_document_lowers_judged_but_not_the_order() -> None:
    values = measure_ranking(np.array([UNJUDGED, 1, 0]), np.array([1, 0]), ("MRR@10", "Judged@10", "nDCG@10"))
    assert values == pytest.approx([0.5, 2 / 3, 1 / np.log2(3)])


@pytest.mark.parametrize("name", ["ndcg@10", "MRR@0", "P", "Recall@", "F1"])
def test_an_unknown_measure_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match="not a retrieval measure"):
        parse_measure(name)

"""Paired tests, Holm's correction and the intervals of differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lavra.core.errors import InputError
from lavra.evaluation.retrieval import RetrievalScores
from lavra.evaluation.significance import compare_with_baseline, holm, paired_t_test, randomisation_test


def scores(values: np.ndarray) -> RetrievalScores:
    return RetrievalScores(tuple(f"q{row}" for row in range(len(values))), ("MRR@10",), values[:, None])


def test_t_test_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(1)
    for size in (3, 30, 300):
        one, two = random.random(size), random.random(size)
        assert paired_t_test(one - two) == pytest.approx(stats.ttest_rel(one, two).pvalue, rel=1e-9)
    assert paired_t_test([0.0, 0.0]) == 1.0
    assert paired_t_test([1.0]) == 1.0
    assert paired_t_test([0.5, 0.5, 0.5]) == 0.0


def test_randomisation_test_approaches_all_sign_assignments() -> None:
    values = np.array([0.3, -0.1, 0.25, 0.4, 0.0, -0.05, 0.2, 0.1, 0.35])
    signs = np.array(list(itertools.product([1, -1], repeat=len(values))))
    exact = (np.abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    assert randomisation_test(values, samples=40_000) == pytest.approx(exact, abs=0.005)


def test_randomisation_test_is_seeded_never_zero_and_one_for_equal_systems() -> None:
    clear = np.ones(200)
    assert randomisation_test(clear, samples=999) == 1 / 1000
    assert randomisation_test(np.zeros(5)) == 1.0
    noisy = np.random.default_rng(0).normal(0.1, 1, 100)
    assert randomisation_test(noisy, seed=3) == randomisation_test(noisy, seed=3)
    assert randomisation_test(noisy, seed=3) != randomisation_test(noisy, seed=4)


def test_p_values_are_uniform_when_nothing_differs() -> None:
    random = np.random.default_rng(2)
    p_values = [randomisation_test(random.normal(size=40), samples=499, seed=timed) for timed in range(200)]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.1


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_comparison_reports_difference_interval_wins_and_losses() -> None:
    random = np.random.default_rng(0)
    base = random.random(400) * 0.5
    better = base.copy()
    better[:150] += 0.2
    better[150:180] -= 0.1
    (found,) = compare_with_baseline(scores(base), {"expanded": scores(better)})
    assert (found.wins, found.losses) == (150, 30)
    assert found.difference.value == pytest.approx((better - base).mean())
    assert found.difference.low is not None
    assert found.difference.low > 0
    assert found.p_holm == found.p_randomisation < 0.001
    assert found.p_t < 0.001
    assert set(found.to_json()) >= {"system", "measure", "difference", "p_holm"}


def test_systems_measured_on_other_queries_are_refused() -> None:
    with pytest.raises(InputError, match="same queries"):
        compare_with_baseline(scores(np.zeros(3)), {"other": scores(np.zeros(4))})

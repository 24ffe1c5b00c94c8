"""Intervals cover what they promise, are seeded, and admit when they know nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lavra.evaluation import intervals
from lavra.evaluation.intervals import Estimate, interval, ratio_estimates, resampled_sums


@pytest.mark.parametrize(("documents", "least"), [(6, 0.87), (20, 0.89), (100, 0.92)])
def test_coverage_of_the_true_ratio(documents: int, least: float) -> None:
    random = np.random.default_rng(documents)
    experiments, covered = 300, 0
    for seed in range(experiments):
        tokens = random.lognormal(5, 1, documents)
        nll = tokens * random.normal(3.5, 0.4, documents)
        found = ratio_estimates(nll, {"tokens": tokens}, draws=400, seed=seed)["tokens"]
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 3.5 <= found.high
    assert least <= covered / experiments <= 0.99


def test_width_agrees_with_the_delta_method() -> None:
    random = np.random.default_rng(0)
    tokens = random.lognormal(5, 0.5, 2000)
    nll = tokens * random.normal(3.0, 0.5, 2000)
    found = ratio_estimates(nll, {"tokens": tokens}, draws=4000)["tokens"]
    ratio = nll.sum() / tokens.sum()
    deviation = np.sqrt(((nll - ratio * tokens) ** 2).sum()) / tokens.sum()
    assert found.value == pytest.approx(ratio)
    assert found.low == pytest.approx(ratio - 1.96 * deviation, abs=0.1 * deviation)
    assert found.high == pytest.approx(ratio + 1.96 * deviation, abs=0.1 * deviation)


def test_many_documents_are_grouped_without_changing_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    tokens = random.lognormal(5, 0.5, 6000)
    nll = tokens * random.normal(3.0, 0.5, 6000)
    whole = ratio_estimates(nll, {"tokens": tokens}, draws=3000)["tokens"]
    monkeypatch.setattr(intervals, "MOST_UNITS", 1000)
    grouped = ratio_estimates(nll, {"tokens": tokens}, draws=3000)["tokens"]
    assert grouped.value == whole.value
    assert whole.low is not None
    assert whole.high is not None
    assert grouped.low == pytest.approx(whole.low, abs=0.1 * (whole.high - whole.low))
    assert grouped.high == pytest.approx(whole.high, abs=0.1 * (whole.high - whole.low))


def test_sums_keep_the_total_on_average_and_are_seeded() -> None:
    values = np.arange(12.0).reshape(6, 2)
    sums = resampled_sums(values, draws=20_000, seed=3)
    assert sums.mean(0) == pytest.approx(values.sum(0), rel=0.02)
    assert np.array_equal(sums, resampled_sums(values, draws=20_000, seed=3))
    assert not np.array_equal(sums, resampled_sums(values, draws=20_000, seed=4))


def test_identical_documents_have_an_interval_of_one_point() -> None:
    found = ratio_estimates(np.full(10, 6.0), {"tokens": np.full(10, 2.0)})["tokens"]
    assert (found.value, found.low, found.high) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize("documents", [1, 4])
def test_few_documents_have_a_value_and_no_interval(documents: int) -> None:
    found = ratio_estimates(np.full(documents, 6.0), {"tokens": np.full(documents, 2.0)})["tokens"]
    assert found == Estimate(3.0, None, None)
    assert found.to_json() == {"value": 3.0, "low": None, "high": None}


def test_nothing_to_divide_by_is_not_a_number() -> None:
    found = ratio_estimates(np.ones(8), {"words": np.zeros(8)})["words"]
    assert math.isnan(found.value)
    assert found.to_json() == {"value": None, "low": None, "high": None}


def test_an_increasing_function_goes_through() -> None:
    assert Estimate(1.0, 0.0, 2.0).through(math.exp) == Estimate(math.e, 1.0, math.exp(2.0))
    assert Estimate(1.0).through(math.exp) == Estimate(math.e)


def test_a_wider_level_holds_a_narrower_one() -> None:
    statistics = np.random.default_rng(0).normal(size=5000)
    low, high = interval(statistics, 30, 0.95)
    lower, higher = interval(statistics, 30, 0.99)
    assert lower < low < high < higher  # pyright: ignore[reportOptionalOperand]

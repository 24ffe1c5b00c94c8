"""Ensembles reach the best loss on the simplex; what settings gain is measured on rows that did not choose them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.prediction_tables import softmax, table_of

from lavra.core.errors import InputError
from lavra.evaluation.labels.ensembles import combine, fit_weights
from lavra.evaluation.labels.metrics import metric_value
from lavra.evaluation.labels.nested import (
    calibrating,
    cross_fitted,
    ensembling,
    halves,
    nested_gain,
    thresholding,
)
from lavra.evaluation.labels.predictions import Predictions, one_hot

LOSS = {"classes": "log_loss", "labels": "log_loss", "values": "mean_squared_error", "ordinal": "log_loss"}


@pytest.mark.parametrize("kind", list(LOSS))
def test_no_other_weights_have_a_smaller_loss(kind) -> None:
    members = [table_of(kind, skill=skill, seed=seed, weighted=True) for seed, skill in enumerate((0.9, 0.6, 0.1))]
    weights = fit_weights(members)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    best = metric_value(combine(members, weights), LOSS[kind])
    assert best < min(metric_value(member, LOSS[kind]) for member in members)
    for first, second in itertools.product(np.linspace(0, 1, 15), repeat=2):
        if first + second <= 1:
            mixed = combine(members, [first, second, 1 - first - second])
            assert best <= metric_value(mixed, LOSS[kind]) + 1e-8


def test_the_minimum_equals_scipy() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    members = [table_of(skill=0.5 + 0.2 * seed, seed=seed, rows=300) for seed in range(6)]
    weights = fit_weights(members)
    found = optimize.minimize(
        lambda w: metric_value(combine(members, np.maximum(w, 0) / np.maximum(w, 0).sum()), "log_loss"),
        np.full(6, 1 / 6),
        bounds=[(0, 1)] * 6,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        tol=1e-12,
    )
    assert metric_value(combine(members, weights), "log_loss") <= found.fun + 1e-8


def test_an_ensemble_of_one_is_that_one() -> None:
    table = table_of()
    assert fit_weights([table]).tolist() == [1.0]
    np.testing.assert_array_equal(combine([table], [1.0]).probabilities, table.probabilities)


def test_identical_members_have_the_score_of_one() -> None:
    table = table_of()
    weights = fit_weights([table] * 4)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(combine([table] * 4, weights).probabilities, table.probabilities, rtol=1e-12)


def test_members_that_know_nothing_or_are_certain_and_wrong_have_no_weight() -> None:
    good = table_of(skill=3.0)
    wrong = good.with_probabilities(np.roll(good.targets, 1, axis=1))
    weights = fit_weights([wrong, good])
    assert weights[0] < 0.02
    assert np.isfinite(metric_value(combine([wrong, good], weights), "log_loss"))


def test_the_rows_may_stand_in_another_order() -> None:
    one, two = table_of(seed=1), table_of(seed=2, skill=2.0)
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(fit_weights([one, two.select(order)]), fit_weights([one, two]), atol=1e-6)


def test_bad_ensembles_are_refused() -> None:
    table = table_of()
    with pytest.raises(InputError, match="no weights of 2 members"):
        combine([table, table], [0.5, 0.6])
    unknown = Predictions(**{**vars(table), "targets": np.full((200, 3), np.nan)})
    with pytest.raises(InputError, match="no row has a label"):
        fit_weights([unknown, unknown])


def test_parts_keep_folds_and_ids_together() -> None:
    table = table_of()
    part = halves(table)
    assert {len(set(part[table.folds == fold])) for fold in range(4)} == {1}
    assert sorted(np.bincount(part)) == [100, 100]
    foldless = Predictions(table.ids, table.targets, table.probabilities, table.classes)
    assert sorted(np.bincount(halves(foldless, seed=1))) == [100, 100]
    assert halves(foldless, seed=1).tolist() != halves(foldless, seed=2).tolist()
    with pytest.raises(InputError, match="1 rows cannot be divided into 2 parts"):
        halves(foldless.select([0]))


def test_every_row_is_predicted_by_a_setting_that_did_not_see_it() -> None:
    table, part = table_of(), halves(table_of())
    seen: list[set[str]] = []

    def spying(members):
        fitted = set(members[0].ids)
        seen.append(fitted)
        return lambda tables: (tables[0], np.array([one in fitted for one in tables[0].ids], dtype=int))

    decisions = cross_fitted([table], spying)[1]
    assert not decisions.any()
    assert seen[0] == {one for one, inside in zip(table.ids, part == 0, strict=True) if not inside}
    assert seen[0] | seen[1] == set(table.ids)


def test_thresholds_of_noise_gain_nothing_that_is_measured_honestly() -> None:
    random = np.random.default_rng(3)
    noise = random.random((120, 40))
    table = Predictions(range(120), random.random((120, 40)) < 0.15, noise, range(40), "labels")
    gain = nested_gain([table], thresholding(), "macro_f1")
    assert gain.optimistic > gain.comparison.second.value + 0.05  # the same rows flatter
    assert gain.comparison.second.value < gain.comparison.first.value + 0.05


def test_gains_that_are_there_are_found() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(1000, 3))
    truth = (softmax(logits).cumsum(axis=1) > random.random((1000, 1))).argmax(axis=1)
    table = Predictions(range(1000), one_hot(truth, 3), softmax(4 * logits), "abc")
    gain = nested_gain([table], calibrating, "log_loss")
    assert gain.difference.high < 0
    assert gain.comparison.p_randomisation < 0.01
    same = nested_gain([table], calibrating, "accuracy")
    assert (same.difference.value, same.comparison.p_randomisation) == (0.0, 1.0)


def test_the_gain_of_an_ensemble_is_over_the_best_member() -> None:
    members = [table_of(skill=1.0, seed=seed, rows=600) for seed in range(3)]
    gain = nested_gain(members, ensembling, "log_loss")
    assert gain.difference.high < 0
    assert gain.comparison.gain > 0
    alone = nested_gain(members[:1], ensembling, "log_loss")
    assert (alone.difference.value, alone.comparison.p_randomisation) == (0.0, 1.0)
    assert alone.optimistic == alone.comparison.first.value

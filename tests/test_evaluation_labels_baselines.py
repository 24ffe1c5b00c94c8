"""Majorities are the best constants; confident learning finds planted flips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.prediction_tables import softmax, table_of

from lavra.core.errors import InputError
from lavra.evaluation.labels.baselines import majority_out_of_fold
from lavra.evaluation.labels.joining import joined
from lavra.evaluation.labels.label_errors import label_errors, one_label
from lavra.evaluation.labels.metrics import metric_value
from lavra.evaluation.labels.predictions import Predictions, one_hot


def test_the_majority_of_equal_folds_has_the_smallest_losses_of_all_constants() -> None:
    table = table_of(weighted=True)
    table = joined([replace(table, seeds=np.full(len(table), seed)) for seed in (0, 1)])
    table = replace(table, folds=table.seeds)  # two folds of the same rows
    found = majority_out_of_fold(table)
    share = np.bincount(table.truth(), weights=table.weights) / table.weights.sum()
    assert metric_value(found, "accuracy") == pytest.approx(share.max())
    for change in (np.array([0.01, -0.01, 0]), np.array([0, -0.01, 0.01])):
        other = found.with_probabilities(found.probabilities + change)
        assert metric_value(found, "log_loss") < metric_value(other, "log_loss")


def test_the_mean_of_values() -> None:
    targets = np.array([[0.0], [1.0], [5.0], [2.0]])
    table = Predictions("abcd", targets, np.zeros((4, 1)), ["score"], "values", folds=[0, 1, 1, 0])
    assert majority_out_of_fold(table).probabilities[:, 0].tolist() == [3.0, 1.0, 1.0, 3.0]


def test_out_of_fold_reads_the_other_folds_only() -> None:
    table = Predictions("abcd", one_hot([0, 0, 1, -1], 2), np.full((4, 2), 0.5), "xy", folds=[0, 0, 1, 1])
    assert majority_out_of_fold(table).probabilities.tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    with pytest.raises(InputError, match="4 rows have no fold"):
        majority_out_of_fold(Predictions("abcd", table.targets, table.probabilities, "xy"))
    nothing = Predictions("ab", np.full((2, 2), np.nan), np.full((2, 2), 0.5), "xy", folds=[0, 1])
    with pytest.raises(InputError, match="no row outside a fold has a label"):
        majority_out_of_fold(nothing)


def flipped(share: float = 0.05) -> tuple[Predictions, np.ndarray]:
    """A table in which some labels were exchanged for another, and predictions that know the true ones well."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 2000)
    wrong = random.random(2000) < share
    labels = np.where(wrong, (truth + random.integers(1, 4, 2000)) % 4, truth)
    probabilities = softmax(3.5 * one_hot(truth, 4) + random.normal(size=(2000, 4)))
    return Predictions(range(2000), one_hot(labels, 4), probabilities, "abcd"), wrong


def test_planted_flips_are_found() -> None:
    table, wrong = flipped()
    found = label_errors(table)
    assert wrong[found.order[: wrong.sum()]].mean() > 0.8
    assert found.flagged[wrong].mean() > 0.6
    assert wrong[found.flagged].mean() > 0.8
    assert found.joint.sum() <= 2000
    label, suggested, count = found.confused(1)[0]
    assert label != suggested
    assert count == found.joint["abcd".index(label), "abcd".index(suggested)]


def test_few_rows_of_clean_labels_are_flagged() -> None:
    assert label_errors(flipped(0.0)[0]).flagged.mean() < 0.01


def test_the_joint_counts_labels_against_the_thresholds_of_each_class() -> None:
    # Class x is predicted boldly and class y timidly: .4 of y is more than its rows have on average (.35).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.6, 0.4]])
    found = label_errors(Predictions(range(5), one_hot([0, 0, 0, 1, 1], 2), probabilities, "xy"))
    assert found.flagged.tolist() == [False, False, True, False, False]
    assert found.suggested.tolist() == [0, 0, 1, 1, 1]
    assert found.joint.tolist() == [[2, 1], [0, 1]]  # of row 3 the model is confident of nothing
    assert found.order.tolist() == [3, 4, 2, 0, 1]


def test_rows_without_label_and_classes_without_rows() -> None:
    table = Predictions("abc", one_hot([0, -1, 1], 3), [[0.9, 0.1, 0], [0, 0, 1], [0.2, 0.8, 0]], "xyz")
    found = label_errors(table)
    assert found.order.tolist() == [2, 0]
    assert np.isnan(found.self_confidence[1])
    assert not found.flagged.any()


def test_labels_are_looked_at_one_at_a_time() -> None:
    table = table_of("labels", skill=3.0)
    targets = table.targets.copy()
    targets[7, 1] = 1 - targets[7, 1]
    one = one_label(Predictions(table.ids, targets, table.probabilities, table.classes, "labels"), "c1")
    assert label_errors(one).order[0] == 7
    with pytest.raises(InputError, match="one_label"):
        label_errors(table)
    with pytest.raises(InputError, match="'c9' is none of the labels c0, c1, c2"):
        one_label(table, "c9")

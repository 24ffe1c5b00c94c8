"""Shuffled labels unmask a stage that reads labels outside the folds, and nothing that is fitted inside them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from lavra.checks.leaks import check_permuted_labels
from lavra.core.errors import InputError
from lavra.data.folds import make_folds
from lavra.evaluation.labels.permuted import permuted_label_test, shuffled_targets
from lavra.evaluation.labels.predictions import Predictions, one_hot
from lavra.evaluation.labels.thresholds import fit_thresholds
from lavra.models.linear.cross_validation import linear_out_of_fold
from lavra.models.linear.fitting import fit_linear

ROWS, WIDTH = 240, 4000


def noise(seed: int = 0) -> tuple[np.ndarray, Predictions]:
    """Rows of random numbers, and labels that stand in no relation to them."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(ROWS) % 2)
    folds = make_folds(labels.tolist(), 3, seed=seed).fold
    table = Predictions(range(ROWS), one_hot(labels, 2), np.full((ROWS, 2), 0.5), ["no", "yes"], folds=folds)
    return random.normal(size=(ROWS, WIDTH)), table


def centroids(rows, targets: np.ndarray, folds: np.ndarray, *, selects_outside: bool) -> np.ndarray:
    """A pipeline: chooses the ten columns that go best with the labels, then the nearer mean of each class."""
    found = np.empty_like(targets)
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        read = np.ones(len(folds), dtype=bool) if selects_outside else outside
        columns = np.argsort(-np.abs(rows[read].T @ (targets[read, 1] - 0.5)))[:10]
        means = [rows[outside & (targets[:, label] == 1)][:, columns].mean(axis=0) for label in (0, 1)]
        distances = np.stack([((rows[inside][:, columns] - mean) ** 2).sum(axis=1) for mean in means], axis=1)
        found[inside] = np.exp(-distances) / np.exp(-distances).sum(axis=1, keepdims=True)
    return found


def test_a_stage_that_reads_labels_outside_the_folds_fails() -> None:
    rows, table = noise()
    result = check_permuted_labels(rows, table, partial(centroids, selects_outside=True))
    assert result.verdict == "fail"
    assert "fit every stage inside each fold only" in result.remedy


@pytest.mark.parametrize("seed", range(4))
def test_the_same_stage_inside_the_folds_passes(seed: int) -> None:
    rows, table = noise(seed)
    result = check_permuted_labels(rows, table, partial(centroids, selects_outside=False), seed=seed)
    assert result.verdict == "ok"
    assert result.remedy == ""
    assert "chance gives" in result.measured


def test_a_planted_signal_is_no_leak() -> None:
    rows, table = noise()
    rows[:, 0] = 5 * table.targets[:, 1]  # labels can be learned from the rows, but not the shuffled ones
    assert not permuted_label_test(rows, table, partial(centroids, selects_outside=False)).leaks


def test_rare_classes_do_not_hide_a_leak() -> None:
    random = np.random.default_rng(0)
    labels = (np.arange(900) % 10 == 0).astype(int)
    table = Predictions(range(900), one_hot(labels, 2), np.full((900, 2), 0.5), ["a", "b"], folds=np.arange(900) // 450)

    def spying(rows, targets, folds):
        guess = random.random(900) < 0.2
        guess |= (targets[:, 1] == 1) & (random.random(900) < 0.6)
        return 0.1 + 0.8 * one_hot(guess, 2)

    found = permuted_label_test([""] * 900, table, spying)
    assert found.score < found.majority.low  # worse than the majority, and a leak all the same
    assert found.leaks


def test_thresholds_that_are_chosen_on_what_they_are_measured_on_may_be_seen_in_decisions() -> None:
    random = np.random.default_rng(0)
    targets = (random.random((80, 30)) < 0.3).astype(float)
    table = Predictions(range(80), targets, targets, range(30), "labels", folds=np.arange(80) // 60)
    said = random.random((80, 30))

    def optimistic(rows, targets, folds):
        whole = Predictions(range(80), targets, said, range(30), "labels")
        return said, fit_thresholds(whole).decide(whole)

    assert permuted_label_test([""] * 80, table, optimistic).leaks
    assert not permuted_label_test([""] * 80, table, lambda rows, targets, folds: said).leaks


@pytest.mark.parametrize("kind", ["values", "ordinal"])
def test_other_kinds_have_their_metric(kind) -> None:
    random = np.random.default_rng(0)
    targets = one_hot(random.integers(0, 4, 80), 4) if kind == "ordinal" else random.normal(size=(80, 1))
    names = "abcd" if kind == "ordinal" else "x"
    table = Predictions(range(80), targets, targets, names, kind, folds=np.arange(80) % 4)
    assert permuted_label_test([""] * 80, table, lambda rows, targets, folds: targets).leaks
    assert not permuted_label_test([""] * 80, table, lambda rows, targets, folds: table.targets).leaks


def test_labels_are_shuffled_within_folds_and_unknown_ones_stay() -> None:
    _, table = noise()
    targets = table.targets.copy()
    targets[::7] = np.nan
    table = Predictions(**{**vars(table), "targets": targets})
    shuffled = shuffled_targets(table, 0)
    assert np.isnan(shuffled).all(axis=1).tolist() == (~table.known).tolist()
    for fold in range(3):
        inside = (table.folds == fold) & table.known
        assert shuffled[inside].sum(axis=0).tolist() == table.targets[inside].sum(axis=0).tolist()
    assert not np.array_equal(shuffled[table.known], table.targets[table.known])


def test_rows_that_are_only_trained_on_are_not_measured() -> None:
    rows, table = noise()
    folds = np.where(np.arange(ROWS) < 40, -1, table.folds)
    partly = Predictions(**{**vars(table), "folds": folds})

    def pipeline(rows, targets, folds):
        return np.where(folds[:, None] < 0, np.nan, targets)

    assert permuted_label_test(rows, partly, pipeline).score == 1.0


def test_one_fold_alone_is_measured_since_two_depend_on_the_labels_of_each_other() -> None:
    labels, folds = np.arange(60) % 2, np.arange(60) // 40
    table = Predictions(range(60), one_hot(labels, 2), np.full((60, 2), 0.5), ["no", "yes"], folds=folds)
    found = permuted_label_test([""] * 60, table, lambda rows, targets, folds: np.where(folds[:, None], 1, 1 - targets))
    assert found.score == 0.0  # of the larger fold


def test_bad_pipelines_are_refused() -> None:
    rows, table = noise()
    with pytest.raises(InputError, match="no row has a fold"):
        permuted_label_test(rows, Predictions(**{**vars(table), "folds": None}), lambda *_: None)
    with pytest.raises(InputError, match=r"predictions of the shape \(3, 2\) for 240 rows"):
        permuted_label_test(rows, table, lambda *_: np.full((3, 2), 0.5))


def texts_of(labels: np.ndarray) -> list[str]:
    random = np.random.default_rng(0)
    words = {0: ["fine", "superb"], 1: ["awful", "boring"]}
    return [
        f"{random.choice(['film', 'plot', 'song'])} {random.choice(words[label])} {random.integers(9)}"
        for label in labels
    ]


def test_linear_models_out_of_fold_equal_fitting_each_fold_by_hand_and_pass_the_check() -> None:
    pytest.importorskip("sklearn")
    labels = np.arange(90) % 2
    texts, targets = texts_of(labels), one_hot(labels, 2)
    folds = make_folds(labels.tolist(), 3)
    found = linear_out_of_fold(texts, targets, folds, ["good", "bad"])
    for fold in range(3):
        model = fit_linear([texts[row] for row in folds.training(fold)], targets[folds.training(fold)], ["good", "bad"])
        by_hand = model.predict_proba([texts[row] for row in folds.validation(fold)])
        np.testing.assert_array_equal(found[folds.validation(fold)], by_hand)
    assert (found.argmax(axis=1) == labels).all()
    table = Predictions(range(90), targets, found, ["good", "bad"], folds=folds.fold)

    def pipeline(rows, targets, _):
        return linear_out_of_fold(rows, targets, folds, ["good", "bad"], strength=10.0)

    assert check_permuted_labels(texts, table, pipeline).verdict == "ok"


def test_rows_that_no_fold_validates_have_no_predictions() -> None:
    pytest.importorskip("sklearn")
    labels = np.arange(40) % 2
    folds = make_folds(None, 2, times=np.arange(40).tolist())
    found = linear_out_of_fold(texts_of(labels), one_hot(labels, 2), folds, ["good", "bad"], strength=10.0)
    assert np.isnan(found[folds.fold < 0]).all()
    assert np.isfinite(found[folds.fold >= 0]).all()

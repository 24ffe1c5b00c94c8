"""Calibration lowers the log-loss and never changes a decision; thresholds are the best there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.prediction_tables import softmax, table_of

from lavra.core.errors import InputError
from lavra.evaluation.labels.calibration import Calibration, fit_calibration
from lavra.evaluation.labels.metrics import metric_value
from lavra.evaluation.labels.predictions import Predictions, one_hot
from lavra.evaluation.labels.thresholds import fit_thresholds


def overconfident(factor: float = 3.0, rows: int = 2000) -> Predictions:
    """A table whose targets are drawn from probabilities, and whose predictions are those, sharpened."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(rows, 3))
    truth = (softmax(logits).cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)
    return Predictions(range(rows), one_hot(truth, 3), softmax(factor * logits), "abc")


def test_the_temperature_of_planted_overconfidence_is_found() -> None:
    table = overconfident(3.0)
    fitted = fit_calibration(table)
    assert fitted.temperature == pytest.approx(3.0, rel=0.1)
    calibrated = fitted.apply(table)
    assert metric_value(calibrated, "log_loss") < metric_value(table, "log_loss") - 0.1
    assert metric_value(calibrated, "calibration_error") < 0.05 < 0.1 < metric_value(table, "calibration_error")
    for name in ("accuracy", "macro_f1", "matthews_correlation"):
        assert metric_value(calibrated, name) == metric_value(table, name)


def test_no_other_temperature_has_a_smaller_loss() -> None:
    table = table_of(weighted=True)
    fitted = fit_calibration(table)

    def penalised(slope: float) -> float:
        loss = metric_value(Calibration("classes", np.array([slope]), np.zeros(1)).apply(table), "log_loss")
        return loss * table.weights.sum() + (slope - 1) ** 2 / 2

    best = penalised(float(fitted.slopes[0]))
    assert all(best <= penalised(slope) for slope in np.geomspace(0.05, 20, 200))


def test_a_temperature_equals_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    frozen = pytest.importorskip("sklearn.frozen")
    base = pytest.importorskip("sklearn.base")

    class Logits(base.ClassifierMixin, base.BaseEstimator):
        classes_ = np.arange(3)

        def fit(self, x, y):
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

        def __sklearn_is_fitted__(self):
            return True

    table = overconfident()
    model = calibration.CalibratedClassifierCV(frozen.FrozenEstimator(Logits()), method="temperature")
    model.fit(np.log(table.probabilities), table.truth())
    wanted = model.predict_proba(np.log(table.probabilities))
    np.testing.assert_allclose(fit_calibration(table).apply(table).probabilities, wanted, atol=2e-3)


PROBABILITIES = arrays(np.float64, (6, 3), elements=st.sampled_from([0.0, 1e-300, 1e-9, 0.2, 1 / 3, 0.5, 1.0]))


@given(PROBABILITIES, st.floats(0.01, 100), st.lists(st.integers(-2, 2), min_size=18, max_size=18))
def test_a_temperature_never_changes_the_likeliest_class(raw: np.ndarray, slope: float, steps: list[int]) -> None:
    raw = np.where(raw.sum(axis=1, keepdims=True) > 0, raw, 1.0)
    shares = raw / raw.sum(axis=1, keepdims=True)
    for _ in range(2):  # neighbours of each other in their last bits
        shares = np.where(np.reshape(steps, (6, 3)) > 0, np.nextafter(shares, 1), np.nextafter(shares, 0))
    table = Predictions(range(6), one_hot([0] * 6, 3), shares, "abc")
    calibrated = Calibration("classes", np.array([slope]), np.zeros(1)).apply(table)
    assert calibrated.decisions().tolist() == table.decisions().tolist()


def test_few_rows_and_rows_that_are_all_right_give_no_extreme() -> None:
    right = Predictions(range(3), one_hot([0, 1, 0], 2), [[0.9, 0.1], [0.1, 0.9], [0.8, 0.2]], "ab")
    assert 0.5 < fit_calibration(right).temperature < 1
    nothing = Predictions(range(3), np.full((3, 2), np.nan), right.probabilities, "ab")
    assert fit_calibration(nothing).temperature == 1.0


def test_labels_are_calibrated_one_by_one_and_keep_their_ranking() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(3000, 2))
    truth = (random.random((3000, 2)) < 1 / (1 + np.exp(-logits))).astype(float)
    distorted = 1 / (1 + np.exp(-(logits * [2, 0.5] + [1, -1])))
    table = Predictions(range(3000), truth, distorted, ["x", "y"], "labels")
    fitted = fit_calibration(table)
    np.testing.assert_allclose(fitted.slopes, [0.5, 2.0], rtol=0.15)
    np.testing.assert_allclose(fitted.offsets, [-0.5, 2.0], atol=0.2)
    assert metric_value(fitted.apply(table), "log_loss") < metric_value(table, "log_loss")
    order = np.argsort(distorted[:, 0])
    assert (np.diff(fitted.apply(table).probabilities[order, 0]) >= 0).all()


def test_a_label_that_nobody_has_stays_finite() -> None:
    table = table_of("labels", rows=50)
    nobody = Predictions(range(50), np.zeros((50, 3)), table.probabilities, "abc", "labels")
    fitted = fit_calibration(nobody)
    assert np.isfinite(fitted.offsets).all()
    assert (fitted.slopes > 0).all()


def test_a_calibration_comes_back_and_refuses_what_it_does_not_fit() -> None:
    fitted = fit_calibration(table_of("labels"))
    again = Calibration.from_json(fitted.to_json())
    np.testing.assert_array_equal(again.slopes, fitted.slopes)
    with pytest.raises(InputError, match="calibration of labels does not fit classes"):
        again.apply(table_of())
    with pytest.raises(InputError, match="values cannot be calibrated"):
        fit_calibration(table_of("values"))


@pytest.mark.parametrize("goal", ["f1", "balanced_accuracy", "macro_f1"])
def test_no_other_threshold_is_better(goal: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    table = table_of("labels", rows=80, skill=0.4, weighted=True)
    rounded = table.with_probabilities(np.round(table.probabilities, 1))
    truth, weights = rounded.truth(), rounded.weights

    def quality(label: int, threshold: float) -> float:
        given_ = rounded.probabilities[:, label] >= threshold
        if goal == "balanced_accuracy":
            return metrics.balanced_accuracy_score(truth[:, label], given_, sample_weight=weights)
        average = "binary" if goal == "f1" else "macro"
        return metrics.f1_score(truth[:, label], given_, sample_weight=weights, average=average, zero_division=0)

    fitted = fit_thresholds(rounded, goal)
    for label, threshold in enumerate(fitted.values):
        best = max(quality(label, one) for one in np.arange(-0.05, 1.1, 0.05))
        assert quality(label, threshold) == pytest.approx(best)
    assert fitted.decide(rounded).shape == (80, 3)


def test_two_classes_have_a_threshold() -> None:
    random = np.random.default_rng(0)
    truth = random.random(500) < 0.1
    share = np.clip(0.3 * truth + random.random(500) * 0.25, 0, 1)  # a rare class never reaches one half
    table = Predictions(range(500), one_hot(truth, 2), np.column_stack([1 - share, share]), ["no", "yes"])
    fitted = fit_thresholds(table)
    assert 0.2 < fitted.values[0] < 0.35
    assert metric_value(table, "macro_f1", fitted.decide(table)) > metric_value(table, "macro_f1") + 0.2


def test_labels_without_rows_keep_one_half_and_are_named() -> None:
    table = table_of("labels")
    targets = table.targets.copy()
    targets[:, 1] = 0
    fitted = fit_thresholds(Predictions(table.ids, targets, table.probabilities, table.classes, "labels"))
    assert fitted.values[1] == 0.5
    assert fitted.untouched == ("c1",)
    with pytest.raises(InputError, match="no thresholds of 3 classes"):
        fit_thresholds(table_of())

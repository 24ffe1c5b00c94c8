"""Confusions, scores of classes and reliability agree with scikit-learn and with the metrics."""

from __future__ import annotations

import numpy as np
import pytest
from tests.prediction_tables import table_of

from lavra.core.errors import InputError
from lavra.evaluation.labels.confusion import (
    class_scores,
    confident_errors,
    confusion_matrix,
    most_confused,
    reliability,
)
from lavra.evaluation.labels.metrics import metric_value
from lavra.evaluation.labels.predictions import Predictions, one_hot

metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("kind", ["classes", "ordinal"])
def test_the_matrix_equals_scikit_learn(kind) -> None:
    table = table_of(kind, classes=4, weighted=True)
    wanted = metrics.confusion_matrix(table.truth(), table.decisions(), sample_weight=table.weights)
    np.testing.assert_allclose(confusion_matrix(table), wanted)


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_the_scores_of_classes_equal_scikit_learn(kind) -> None:
    table = table_of(kind, classes=4, weighted=True)
    wanted = metrics.precision_recall_fscore_support(table.truth(), table.decisions(), sample_weight=table.weights)
    found = class_scores(table)
    for place, name in enumerate(("precision", "recall", "f1", "support")):
        np.testing.assert_allclose([getattr(one, name) for one in found], wanted[place])
    assert np.mean([one.f1 for one in found]) == pytest.approx(metric_value(table, "macro_f1"))


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_the_calibration_error_is_the_distance_of_the_bins(kind) -> None:
    table = table_of(kind, weighted=True)
    bins = reliability(table)
    total = sum(one.weight for one in bins)
    error = sum(one.weight * abs(one.accuracy - one.confidence) for one in bins) / total
    assert error == pytest.approx(metric_value(table, "calibration_error"))
    assert all(one.low < one.confidence <= one.high for one in bins)


def test_confusions_and_errors_are_sorted_and_rows_without_label_left_out() -> None:
    probabilities = [[0.9, 0.1, 0], [0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.5, 0], [0, 1, 0]]
    table = Predictions("abcde", one_hot([1, 1, 2, 2, -1], 3), probabilities, "xyz")
    matrix = confusion_matrix(table)
    assert most_confused(matrix, table.classes) == [("y", "x", 2.0), ("z", "x", 1.0)]
    assert confident_errors(table).tolist() == [0, 1, 3]
    assert class_scores(table)[0].predicted == 3.0
    with pytest.raises(InputError, match="no confusion matrix of values"):
        confusion_matrix(table_of("values"))
    with pytest.raises(InputError, match="no reliability diagram of values"):
        reliability(table_of("values"))

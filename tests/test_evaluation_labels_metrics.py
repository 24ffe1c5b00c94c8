"""Metrics equal scikit-learn's, weights included; their intervals cover, and do not depend on how they are computed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from tests.prediction_tables import softmax, table_of

from lavra.core.errors import InputError
from lavra.evaluation.intervals import Resamples
from lavra.evaluation.labels import statistics
from lavra.evaluation.labels.joining import joined
from lavra.evaluation.labels.metrics import METRICS, gain, metric_value, scores
from lavra.evaluation.labels.predictions import Predictions, one_hot

sklearn = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")


def by_sklearn(table: Predictions) -> dict[str, float]:
    """The metrics of a table by scikit-learn and SciPy."""
    w, p = table.weights, table.probabilities
    if table.kind == "values":
        x, y = table.targets[:, 0], p[:, 0]
        return {
            "mean_squared_error": sklearn.mean_squared_error(x, y, sample_weight=w),
            "mean_absolute_error": sklearn.mean_absolute_error(x, y, sample_weight=w),
            "pearson": np.cov(x, y, aweights=w)[0, 1] / np.sqrt(np.cov(x, aweights=w) * np.cov(y, aweights=w)),
        }
    t, d = table.truth(), table.decisions()
    if table.kind == "labels":
        return {
            "micro_f1": sklearn.f1_score(t, d, average="micro", sample_weight=w),
            "macro_f1": sklearn.f1_score(t, d, average="macro", sample_weight=w, zero_division=np.nan),
            "samples_f1": sklearn.f1_score(t, d, average="samples", sample_weight=w, zero_division=1.0),
            "subset_accuracy": sklearn.accuracy_score(t, d, sample_weight=w),
            "log_loss": np.mean([sklearn.log_loss(t[:, k], p[:, k], sample_weight=w) for k in range(t.shape[1])]),
            "brier": np.mean([sklearn.brier_score_loss(t[:, k], p[:, k], sample_weight=w) for k in range(t.shape[1])]),
        }
    loss = sklearn.log_loss(t, p, sample_weight=w, labels=range(p.shape[1]))
    if table.kind == "ordinal":
        return {
            "quadratic_kappa": sklearn.cohen_kappa_score(t, d, weights="quadratic", sample_weight=w),
            "mean_absolute_error": sklearn.mean_absolute_error(t, d, sample_weight=w),
            "accuracy": sklearn.accuracy_score(t, d, sample_weight=w),
            "log_loss": loss,
        }
    return {
        "accuracy": sklearn.accuracy_score(t, d, sample_weight=w),
        "balanced_accuracy": sklearn.balanced_accuracy_score(t, d, sample_weight=w),
        "macro_f1": sklearn.f1_score(t, d, average="macro", sample_weight=w),
        "micro_f1": sklearn.f1_score(t, d, average="micro", sample_weight=w),
        "matthews_correlation": sklearn.matthews_corrcoef(t, d, sample_weight=w),
        "log_loss": loss,
        "brier": sklearn.brier_score_loss(t, p, sample_weight=w, labels=range(p.shape[1])),
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("kind", "classes"), [("classes", 2), ("classes", 4), ("labels", 5), ("values", 1), ("ordinal", 5)]
)
def test_metrics_equal_scikit_learn(kind, classes: int, weighted: bool) -> None:
    table = table_of(kind, classes=classes, weighted=weighted)
    found = scores(table).metrics
    wanted = by_sklearn(table)
    assert set(found) - set(wanted) <= {"calibration_error", "spearman"}
    for name, value in wanted.items():
        assert found[name].value == pytest.approx(value, rel=1e-9), name
        assert found[name].value == pytest.approx(metric_value(table, name), rel=1e-12)
        assert found[name].low is not None
        assert found[name].low < value < found[name].high, name


def test_spearman_equals_scipy_with_ties() -> None:
    table = table_of("values", classes=1)
    tied = table.with_probabilities(np.round(table.probabilities))
    wanted = stats.spearmanr(tied.targets[:, 0], tied.probabilities[:, 0]).statistic
    assert metric_value(tied, "spearman") == pytest.approx(wanted, rel=1e-9)
    doubled = np.repeat(np.arange(200), np.arange(200) % 3)
    weighted = Predictions(**{**vars(tied), "weights": np.arange(200.0) % 3})  # a weight of 2 is a row given twice
    wanted = stats.spearmanr(tied.targets[doubled, 0], tied.probabilities[doubled, 0]).statistic
    assert metric_value(weighted, "spearman") == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "ordinal"])
def test_resamples_equal_metrics_of_the_rows_drawn(kind) -> None:
    table = table_of(kind, rows=60, weighted=True)
    statistics_ = statistics_of_all(table)
    times = np.concatenate([block for _, block in Resamples(60, draws=20, seed=3).blocks()])
    for statistic in statistics_:
        for name, values in statistic.resampled(draws=20, seed=3).items():
            for value, count in zip(values, times, strict=True):
                rows = np.repeat(np.arange(60), count)
                ids = [f"x{place}" for place in range(60)]
                columns = [getattr(table, one)[rows] for one in ("targets", "probabilities")]
                drawn = Predictions(ids, *columns, table.classes, kind, weights=table.weights[rows])
                assert value == pytest.approx(metric_value(drawn, name), rel=1e-9, abs=1e-12), name


def statistics_of_all(table: Predictions):
    from lavra.evaluation.labels.metrics import known_statistics

    return known_statistics(table, None, METRICS[table.kind])


def test_many_columns_give_what_few_give(monkeypatch) -> None:
    tables = [table_of(classes=20, rows=300), table_of("labels", classes=20, rows=300)]
    few = [[one.resampled(draws=30, seed=1) for one in statistics_of_all(table)] for table in tables]
    monkeypatch.setattr(statistics, "_DENSE", 0)
    many = [[one.resampled(draws=30, seed=1) for one in statistics_of_all(table)] for table in tables]
    for one, other in zip(few, many, strict=True):
        for values, again in zip(one, other, strict=True):
            for name in values:
                np.testing.assert_allclose(again[name], values[name], rtol=1e-9)


def test_hundreds_of_classes_and_more_rows_than_units() -> None:
    rows, classes = 9_000, 300
    truth = np.random.default_rng(0).integers(0, classes, rows)
    probabilities = np.zeros((rows, classes))
    probabilities[np.arange(rows), np.where(np.arange(rows) % 4, truth, 0)] = 1.0
    table = Predictions([str(row) for row in range(rows)], one_hot(truth, classes), probabilities, range(classes))
    found = scores(table, names=("accuracy", "macro_f1"), draws=50).metrics
    assert found["accuracy"].value == pytest.approx(0.75, abs=0.01)
    assert found["accuracy"].high - found["accuracy"].low == pytest.approx(2 * 1.96 * np.sqrt(0.1875 / rows), rel=0.4)


def test_the_interval_of_accuracy_is_that_of_a_share() -> None:
    estimate = scores(table_of(classes=2, rows=400)).metrics["accuracy"]
    half = 1.96 * np.sqrt(estimate.value * (1 - estimate.value) / 400)
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.2)


def test_calibration_error_of_planted_probabilities() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 4000)
    right = random.random(4000) < sure
    probabilities = np.column_stack([sure, 1 - sure])
    ids = [str(row) for row in range(4000)]
    calibrated = Predictions(ids, one_hot(np.where(right, 0, 1), 2), probabilities, ["a", "b"])
    estimate = scores(calibrated, names=("calibration_error",)).metrics["calibration_error"]
    assert estimate.value < 0.03
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.low < 0.015  # without its bias taken off, the interval would lie above the value
    bragging = Predictions(ids, one_hot(np.where(right, 0, 1), 2), np.tile([0.99, 0.01], (4000, 1)), ["a", "b"])
    assert metric_value(bragging, "calibration_error") == pytest.approx(0.99 - right.mean(), abs=1e-9)


def test_calibration_error_by_hand_with_weights() -> None:
    table = Predictions("abc", one_hot([0, 1, 0], 2), [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], "xy", weights=[2, 1, 1])
    # Weight 3 at .9 is right for 2/3 of it, weight 1 at .6 is right: 3/4 · |2/3 - .9| + 1/4 · .4
    assert metric_value(table, "calibration_error") == pytest.approx(0.75 * abs(2 / 3 - 0.9) + 0.1)


def test_soft_targets_count_as_they_are_in_losses() -> None:
    table = Predictions("a", [[0.7, 0.3]], [[0.6, 0.4]], "xy")
    assert metric_value(table, "log_loss") == pytest.approx(-0.7 * np.log(0.6) - 0.3 * np.log(0.4))
    assert metric_value(table, "brier") == pytest.approx(0.01)
    assert metric_value(table, "accuracy") == 1.0


def test_what_does_not_vary_has_no_correlation() -> None:
    table = table_of("values", classes=1)
    constant = table.with_probabilities(np.full((200, 1), 0.1))
    assert [scores(constant).metrics[name].value for name in ("pearson", "spearman")] == [0.0, 0.0]
    classes = table_of(classes=3)
    assert metric_value(classes.with_probabilities(np.tile([1.0, 0, 0], (200, 1))), "matthews_correlation") == 0.0
    levels = table_of("ordinal", classes=3)
    assert metric_value(levels.with_probabilities(np.tile([1.0, 0, 0], (200, 1))), "quadratic_kappa") == 0.0


def test_pearson_of_values_far_from_zero() -> None:
    table = table_of("values", classes=1)
    moved = Predictions(**{**vars(table), "targets": table.targets + 1e8, "probabilities": table.probabilities + 1e8})
    assert metric_value(moved, "pearson") == pytest.approx(metric_value(table, "pearson"), rel=1e-6)


def test_rows_without_label_are_left_out_and_counted() -> None:
    table = table_of()
    targets = table.targets.copy()
    targets[::4] = np.nan
    found = scores(Predictions(**{**vars(table), "targets": targets}))
    rows = np.arange(200) % 4 != 0
    assert (found.rows, found.unknown) == (150, 50)
    assert found.metrics == scores(table.select(rows)).metrics
    assert found.to_json()["rows_without_label"] == 50


def test_several_seeds_of_a_row_are_one_piece_of_evidence() -> None:
    table = table_of()
    again = Predictions(**{**vars(table), "seeds": np.ones(200, dtype=int)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scores(joined([table, again])).metrics["macro_f1"].low == pytest.approx(
            scores(table).metrics["macro_f1"].low, rel=1e-9
        )


def test_decisions_can_be_given() -> None:
    table = table_of("labels")
    strict = table.probabilities >= 0.8
    wanted = sklearn.f1_score(table.truth(), strict, average="micro")
    assert scores(table, strict, names=("micro_f1",)).metrics["micro_f1"].value == pytest.approx(wanted)
    assert list(scores(table, strict, names=("micro_f1",)).metrics) == ["micro_f1"]


def test_bad_requests_are_refused() -> None:
    table = table_of()
    unknown = Predictions(**{**vars(table), "targets": np.full((200, 3), np.nan)})
    with pytest.raises(InputError, match="none of the 200 rows has a label"):
        scores(unknown)
    with pytest.raises(InputError, match="'pearson' is no metric of classes"):
        scores(table, names=("pearson",))
    with pytest.raises(InputError, match="3 decisions were made for 200 rows"):
        scores(table, np.zeros(3))
    with pytest.raises(InputError, match="weights of all rows"):
        scores(Predictions(**{**vars(table), "weights": np.zeros(200)}))


def test_a_gain_is_positive_where_it_is_one() -> None:
    assert gain("accuracy", 0.5, 0.75) == 0.25
    assert gain("log_loss", 1.0, 0.75) == 0.25


def test_probabilities_of_nothing_do_not_make_infinite_losses() -> None:
    table = Predictions("ab", one_hot([0, 1], 2), softmax(np.array([[-1e9, 0.0], [0.0, 0.0]])), "xy")
    assert 15 < metric_value(table, "log_loss") < 40

"""The paired test of two tables: equal to the test on means where there is one, right in its errors elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.prediction_tables import table_of

from lavra.core.errors import InputError
from lavra.evaluation.labels.comparison import compare
from lavra.evaluation.labels.metrics import METRICS, metric_value
from lavra.evaluation.labels.predictions import Predictions, one_hot
from lavra.evaluation.significance import randomisation_test


def test_accuracy_has_the_test_on_differences_of_rows() -> None:
    one, two = table_of(skill=1.0), table_of(skill=1.5, seed=1)
    right = [(table.truth() == table.decisions()).astype(float) for table in (one, two)]
    found = compare(one, two, "accuracy", samples=20_000)
    assert found.p_randomisation == pytest.approx(randomisation_test(right[1] - right[0], samples=20_000), abs=0.01)
    assert found.difference.value == pytest.approx((right[1] - right[0]).mean())
    assert (found.wins, found.losses) == (int((right[1] > right[0]).sum()), int((right[1] < right[0]).sum()))


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "ordinal"])
def test_the_test_approaches_all_exchanges(kind) -> None:
    one, two = table_of(kind, rows=8, skill=0.5, classes=3), table_of(kind, rows=8, skill=1.5, seed=1, classes=3)
    for name in METRICS[kind]:
        observed = abs(metric_value(two, name) - metric_value(one, name))
        extreme = 0
        for bits in itertools.product([False, True], repeat=7):
            swap = np.array([*bits, False])[:, None]
            mixed = [np.where(swap, a.probabilities, b.probabilities) for a, b in ((one, two), (two, one))]
            values = [metric_value(one.with_probabilities(each), name) for each in mixed]
            extreme += abs(values[0] - values[1]) >= observed - 1e-9
        assert compare(one, two, name).p_randomisation == pytest.approx(extreme / 128, abs=0.04), name


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "ordinal"])
def test_equal_models_do_not_differ(kind) -> None:
    table = table_of(kind, weighted=True)
    for name in METRICS[kind]:
        found = compare(table, table.select(np.arange(200)[::-1]), name, samples=200, draws=200)
        assert found.difference.value == pytest.approx(0, abs=1e-12)
        assert (found.p_randomisation, found.wins, found.losses) == (1.0, 0, 0)
        assert found.difference.low == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["macro_f1", "log_loss"])
def test_a_clear_difference_is_found_and_points_the_right_way(name: str) -> None:
    found = compare(table_of(skill=0.3), table_of(skill=3.0, seed=1), name)
    assert found.p_randomisation < 0.001
    assert found.gain > 0
    assert found.wins > found.losses
    assert found.to_json()["difference"]["value"] == found.difference.value
    assert (found.difference.low > 0) == (name == "macro_f1")


def test_pairs_are_more_certain_than_two_intervals() -> None:
    table = table_of(rows=400)
    probabilities = table.probabilities.copy()
    wrong = np.flatnonzero(table.truth() != table.decisions())[:12]
    probabilities[wrong] = table.targets[wrong]
    found = compare(table, table.with_probabilities(probabilities), "accuracy")
    assert found.first.high > found.second.low
    assert found.difference.low > 0


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    p_values = []
    for seed in range(120):
        one, two = table_of(rows=60, seed=2 * seed), table_of(rows=60, seed=2 * seed + 1)
        p_values.append(compare(one, two, "macro_f1", samples=199, draws=2).p_randomisation)
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.1


def test_given_decisions_follow_their_rows() -> None:
    table = table_of("labels")
    order = np.random.default_rng(0).permutation(200)
    strict = table.probabilities >= 0.7
    one = compare(table, table, "micro_f1", second_decisions=strict)
    two = compare(table, table.select(order), "micro_f1", second_decisions=strict[order])
    assert one.difference.value != 0
    assert one == two


def test_seeds_of_a_row_are_exchanged_together() -> None:
    def seeded(skill: float) -> Predictions:
        tables = [table_of(skill=skill, seed=10, rows=50) for _ in range(4)]
        return Predictions(
            [one for table in tables for one in table.ids],
            np.concatenate([table.targets for table in tables]),
            np.concatenate([table.probabilities for table in tables]),
            tables[0].classes,
            seeds=np.repeat(np.arange(4), 50),
        )

    single = compare(table_of(skill=1.0, seed=10, rows=50), table_of(skill=1.4, seed=10, rows=50), "accuracy")
    four = compare(seeded(1.0), seeded(1.4), "accuracy")
    assert four.p_randomisation == single.p_randomisation  # four copies of a row are no more evidence than one


def test_other_rows_are_refused() -> None:
    table = table_of()
    with pytest.raises(
        InputError, match="the first model predicts row 'r0' with seed 0, and the second model does not"
    ):
        compare(table, table.select(np.arange(1, 200)), "accuracy")
    with pytest.raises(InputError, match="'pearson' is no metric of classes"):
        compare(table, table, "pearson")


def test_rows_without_label_are_left_out() -> None:
    labels = np.where(np.arange(200) % 2, np.arange(200) % 3, -1)
    one, two = (
        Predictions(range(200), one_hot(labels, 3), table_of(seed=seed).probabilities, "abc") for seed in (1, 2)
    )
    assert compare(one, two, "accuracy").rows == 100

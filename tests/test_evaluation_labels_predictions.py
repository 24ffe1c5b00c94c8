"""The table of predictions is checked when it is made, and comes back from its file to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.prediction_tables import table_of

from lavra.core.errors import CorruptFile, InputError
from lavra.evaluation.labels.joining import aligned, joined, mean_over_seeds
from lavra.evaluation.labels.predictions import NO_FOLD, Predictions, one_hot
from lavra.evaluation.labels.predictions_file import read_predictions, write_predictions


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "ordinal"])
def test_a_table_comes_back_to_the_bit(kind, tmp_path: Path) -> None:
    table = table_of(kind, weighted=True)
    targets = table.targets.copy()
    targets[3] = np.nan
    folds = table.folds.copy()
    folds[5] = NO_FOLD
    table = Predictions(
        table.ids, targets, table.probabilities, ["ç", "b c", "λ"], kind, folds, table.seeds, table.weights
    )
    write_predictions(tmp_path / "out_of_fold.parquet", table)
    again = read_predictions(tmp_path / "out_of_fold.parquet")
    assert (again.ids, again.classes, again.kind) == (table.ids, table.classes, table.kind)
    for name in ("targets", "probabilities", "folds", "seeds", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    assert again.known.tolist() == [row != 3 for row in range(200)]
    assert [file.name for file in tmp_path.iterdir()] == ["out_of_fold.parquet"]


def test_the_file_can_be_read_by_others(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_predictions(tmp_path / "p.parquet", table_of(rows=5))
    columns = pq.read_table(tmp_path / "p.parquet").column_names
    assert columns == ["id", "fold", "seed", "weight", "label_probs", "p_1", "p_2", "p_3"]


def test_an_empty_table_comes_back(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.parquet", Predictions([], np.zeros((0, 2)), np.zeros((0, 2)), ["a", "b"]))
    assert len(read_predictions(tmp_path / "p.parquet")) == 0


def test_a_damaged_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "p.parquet"
    with pytest.raises(CorruptFile, match="is missing"):
        read_predictions(file)
    write_predictions(file, table_of())
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(CorruptFile, match="damaged"):
        read_predictions(file)
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(CorruptFile, match="is no table of predictions"):
        read_predictions(file)
    whole = pa.table({"a": [1]}).replace_schema_metadata({"lavra.predictions": '{"format": 99}'})
    pq.write_table(whole, file)
    with pytest.raises(InputError, match="layout 99"):
        read_predictions(file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"probabilities": [[0.5, 0.2], [0.5, 0.5]]},
            "'a' of the predictions has predictions that are no probabilities",
        ),
        ({"probabilities": [[0.5, 0.5], [1.5, -0.5]]}, "'b' of the predictions has predictions that are no prob"),
        ({"probabilities": [[0.5, np.nan], [0.5, 0.5]]}, "not finite"),
        ({"targets": [[1, 1], [0, 1]]}, "targets that are no probabilities"),
        ({"targets": [[1, np.nan], [0, 1]]}, "some are unknown"),
        ({"targets": [[1, 0]]}, "the targets of a table with 2 rows and 2 columns have the shape"),
        ({"ids": ["a", "a"]}, "row 'a' is predicted twice with seed 0"),
        ({"weights": [1, -1]}, "'b' of the predictions has a weight"),
        ({"classes": ["x", "x"]}, "not all different"),
        ({"kind": "class"}, "choose one of classes, labels, values, ordinal"),
    ],
)
def test_a_wrong_table_is_refused(changes, said: str) -> None:
    given = {
        "ids": ["a", "b"],
        "targets": [[1, 0], [0, 1]],
        "probabilities": [[0.5, 0.5], [0.5, 0.5]],
        "classes": ["x", "y"],
    }
    Predictions(**given)
    with pytest.raises(InputError, match=said):
        Predictions(**(given | changes))


def test_one_class_only_is_refused() -> None:
    with pytest.raises(InputError, match="'x' is the only class"):
        Predictions(["a"], np.ones((1, 1)), np.ones((1, 1)), ["x"])


def test_the_decision_of_an_order_is_the_median() -> None:
    table = Predictions(
        ["a", "b"], one_hot([0, 2], 3), np.array([[0.4, 0.25, 0.35], [0.3, 0.2, 0.5]]), "abc", "ordinal"
    )
    assert table.decisions().tolist() == [1, 1]
    assert Predictions(table.ids, table.targets, table.probabilities, "abc").decisions().tolist() == [0, 2]


def test_seeds_are_joined_and_averaged() -> None:
    one, two = table_of(seed=1), table_of(seed=2)
    both = joined([one, Predictions(**{**vars(two), "seeds": np.ones(200, dtype=int)})])
    mean = mean_over_seeds(both)
    assert mean.ids == one.ids
    np.testing.assert_allclose(mean.probabilities, (one.probabilities + two.probabilities) / 2)
    np.testing.assert_array_equal(mean_over_seeds(one).probabilities, one.probabilities)
    with pytest.raises(InputError, match="predicted twice with seed 0"):
        joined([one, two])
    changed = Predictions(**{**vars(two), "seeds": np.ones(200, dtype=int), "targets": np.roll(two.targets, 1, axis=1)})
    with pytest.raises(InputError, match="targets of row 'r0' differ between its seeds"):
        mean_over_seeds(joined([one, changed]))


def test_truth_needs_labels() -> None:
    table = Predictions(["a", "b"], one_hot([-1, 1], 2), np.full((2, 2), 0.5), ["x", "y"])
    with pytest.raises(InputError, match="1 rows have no label"):
        table.truth()
    assert table.select(table.known).truth().tolist() == [1]


def test_tables_are_set_side_by_side_by_id() -> None:
    one, two = table_of(seed=1), table_of(seed=2)
    order = np.random.default_rng(0).permutation(200)
    again = aligned([one, two.select(order)])[1]
    assert again.ids == one.ids
    np.testing.assert_array_equal(again.probabilities, two.probabilities)
    with pytest.raises(InputError, match="base predicts row 'r9' with seed 0, and big does not"):
        aligned([one, two.select(np.arange(200) != 9)], ["base", "big"])
    with pytest.raises(InputError, match="targets of row 'r0' differ between table 1 and table 2"):
        aligned([one, Predictions(**{**vars(two), "targets": np.roll(two.targets, 1, axis=1)})])
    with pytest.raises(InputError, match="predict the same classes"):
        aligned([one, Predictions(**{**vars(two), "classes": "xyz"})])

"""Ensembles of cross-validated runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.labelled_reviews import reviews, write_rows
from tests.prediction_tables import table_of

import lavra
from lavra.config.training import TextConfig, TrainConfig
from lavra.core.errors import InputError
from lavra.evaluation.labels.metrics import metric_value
from lavra.evaluation.labels.predictions_file import write_predictions
from lavra.workflows.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    data = write_rows(folder / "rows.jsonl", reviews(80))
    request = TrainConfig(data=(str(data),), folds=2, check=False)
    return [
        train(replace(request, out=str(folder / "one"))).path,
        train(replace(request, out=str(folder / "two"), seed=3, text=TextConfig(normalize=True))).path,
    ]


def test_an_ensemble_of_one_is_that_one(runs: list[Path]) -> None:
    found = lavra.ensemble(runs[:1])
    assert found.weights.tolist() == [1.0]
    assert found.gain is None
    texts = [row["text"] for row in reviews(6, seed=4)]
    alone = lavra.classify(str(runs[0]), texts)
    assert [one.label for one in found.predict(texts)] == [one.label for one in alone]
    for one, other in zip(found.predict(texts), alone, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities)


def test_an_ensemble_predicts_the_weighted_mean_of_its_members(runs: list[Path]) -> None:
    found = lavra.ensemble([lavra.Run(runs[0]), runs[1]])
    found = replace(found, weights=np.array([0.25, 0.75]))
    text = "a great story of a town"
    shares = [lavra.classify(str(run), [text])[0].probabilities["good"] for run in runs]
    assert found.predict([text])[0].probabilities["good"] == pytest.approx(0.25 * shares[0] + 0.75 * shares[1])
    assert set(found.to_json()["weights"]) == {str(run) for run in runs}


def test_members_that_err_apart_gain_on_rows_that_did_not_choose_the_weights() -> None:
    members = [table_of(seed=seed, rows=600) for seed in (1, 2, 3)]
    found = lavra.ensemble(members)
    assert found.gain is not None
    assert found.gain.difference.low > 0
    assert found.score.value > max(metric_value(member, "accuracy") for member in members)
    assert found.score.value <= found.gain.optimistic + 0.02
    np.testing.assert_allclose(found.weights.sum(), 1.0)


def test_what_is_no_member_is_said(runs: list[Path], tmp_path: Path) -> None:
    write_predictions(tmp_path / "table.parquet", table_of())
    table = lavra.ensemble([tmp_path / "table.parquet"])
    with pytest.raises(InputError, match="has no model to predict with"):
        table.predict(["a text"])
    with pytest.raises(InputError, match="at least one member"):
        lavra.ensemble([])
    with pytest.raises(InputError, match="holds no out-of-fold predictions"):
        lavra.ensemble([runs[0] / "folds" / "0-0"])
    with pytest.raises(InputError, match=r"table\.parquet"):
        lavra.ensemble([runs[0], tmp_path / "table.parquet"])

"""Frozen features with a linear head are a candidate beside the linear model and the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.labelled_reviews import reviews, write_rows
from tests.labelled_rows import encoder
from tests.prediction_tables import table_of

import lavra
from lavra.config.training import HeadConfig, MachineConfig, OptimizationConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.evaluation.labels.metrics import metric_value
from lavra.evaluation.labels.predictions_file import read_predictions
from lavra.workflows.labels.choice import FROZEN, NETWORK, chosen_among
from lavra.workflows.labels.linear_head import fitted
from lavra.workflows.train import train

pytest.importorskip("sklearn")


def _run(folder: Path, rate: float, **fields: Any) -> RunFolder:
    """A run of a random encoder, whose network learns at a rate."""
    config = TrainConfig(
        data=(str(write_rows(folder / "rows.jsonl", reviews(120))),),
        base=str(encoder(folder / "encoder")),
        out=str(folder / "run"),
        steps=3,
        check=False,
        machine=MachineConfig(device="cpu", threads=1, precision="fp32", compile="no"),
        optimization=OptimizationConfig(learning_rate=rate),
    )
    return train(replace(config, **fields))


def test_where_the_network_forgets_the_frozen_features_are_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)  # or it would be better still
    run = _run(tmp_path, rate=0.5)  # far too much
    result = run.result
    assert result["delivers"] == FROZEN
    assert result["against_frozen"]["difference"]["value"] < 0
    table = read_predictions(run.path / "predictions.parquet")
    assert metric_value(table, "accuracy") == result["accuracy"]["value"] == result["against_frozen"]["first"]["value"]
    texts = {row["id"]: row["text"] for row in reviews(120)}
    said = lavra.classify(str(run.path), [texts[name] for name in table.ids])
    found = np.array([[one.probabilities[name] for name in table.classes] for one in said])
    np.testing.assert_allclose(found, table.probabilities, atol=1e-5)


def test_a_head_that_begins_random_is_random_after_the_candidate_was_measured(tmp_path: Path) -> None:
    found = []
    for name, kind in (("with", {}), ("without", {"deliver": "last"})):
        (tmp_path / name).mkdir()
        run = _run(tmp_path / name, rate=1e-3, head=HeadConfig(probe=False), **kind)
        found.append(run.metrics.read()[-1]["loss"])
        assert (run.path / FROZEN).exists() == (name == "with")
    assert found[0] == found[1]


def test_the_choice_takes_the_best_and_says_what_it_flatters() -> None:
    weak, middle, strong = (table_of(skill=skill, rows=400) for skill in (0.3, 1.0, 3.0))
    found = chosen_among({"linear": weak, FROZEN: strong, NETWORK: middle}, "best")
    assert found.name == FROZEN
    assert found.told["against_linear"]["second"]["value"] == metric_value(strong, "accuracy")
    assert found.told["choice"]["on_rows_that_did_not_choose"] == metric_value(strong, "accuracy")
    assert "frozen features" in found.sentence
    assert chosen_among({"linear": strong, NETWORK: strong}, "best").name == NETWORK
    assert chosen_among({"linear": strong, FROZEN: strong, NETWORK: strong}, "small").name == "linear"


@pytest.mark.parametrize("outputs", ["classes", "labels", "values"])
def test_a_layer_without_bias_is_the_best_without_one(outputs: str) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(200, 3) + 5.0
    targets = torch.eye(2)[(vectors[:, 0] > vectors[:, 1]).long()]
    weight, bias = fitted(vectors, targets, outputs, bias=False)
    assert bias.tolist() == [0.0, 0.0]
    assert ((vectors @ weight.T).argmax(1) == targets.argmax(1)).float().mean() > 0.9

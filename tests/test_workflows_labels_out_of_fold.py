"""What follows from out-of-fold predictions, and that nothing is measured on the rows that chose it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.prediction_tables import softmax, table_of

from lavra.evaluation.labels.metrics import metric_value
from lavra.evaluation.labels.predictions import Predictions, one_hot
from lavra.workflows.labels.out_of_fold import doubts_sentence, out_of_fold, write_label_errors


def test_a_boastful_model_is_cooled_and_decides_as_before() -> None:
    table = table_of(skill=2.0, rows=400)
    boast = table.with_probabilities(softmax(6 * np.log(table.probabilities)))
    found = out_of_fold(boast)
    figures = found.measured.figures
    assert found.settings["temperature"] == pytest.approx(figures["calibration"]["temperature"])
    assert found.settings["temperature"] > 2
    assert figures["log_loss"]["value"] < metric_value(boast, "log_loss")
    assert figures["log_loss"]["value"] >= figures["calibration"]["optimistic"]  # it did not choose its own temperature
    assert figures["accuracy"]["value"] == metric_value(boast, "accuracy")


def test_a_temperature_that_does_not_help_on_other_rows_is_not_taken() -> None:
    unused = 0
    for seed in range(6):
        chance = np.random.default_rng(seed)
        probabilities = chance.dirichlet(np.ones(3), 300)
        labels = np.array([chance.choice(3, p=row) for row in probabilities])
        table = Predictions(range(300), one_hot(labels, 3), probabilities, ["a", "b", "c"], folds=np.arange(300) % 5)
        found = out_of_fold(table)
        figures = found.measured.figures
        assert found.settings.get("temperature", 1.0) == pytest.approx(1.0, abs=0.2)
        if figures["calibration"]["difference"]["value"] >= 0:
            unused += 1
            assert found.settings == {}
            assert figures["log_loss"]["value"] == metric_value(table, "log_loss")
    assert unused


def test_rare_labels_get_thresholds_of_their_own() -> None:
    table = table_of("labels", rows=600, skill=1.0)
    shy = table.with_probabilities(table.probabilities / 4)
    found = out_of_fold(shy)
    assert len(found.settings["thresholds"]) == 3
    assert max(found.settings["thresholds"]) < 0.3
    assert found.measured.figures["macro_f1"]["value"] > metric_value(shy, "macro_f1") + 0.3
    assert found.measured.figures["macro_f1"]["value"] <= found.measured.figures["thresholds"]["optimistic"] + 1e-9


def test_several_seeds_are_measured_one_by_one_and_together() -> None:
    tables = [replace(table_of(seed=seed), seeds=np.full(200, seed)) for seed in (0, 1, 2)]
    whole = replace(
        tables[0],
        ids=[name for table in tables for name in table.ids],
        **{
            name: np.concatenate([getattr(table, name) for table in tables])
            for name in ("targets", "probabilities", "folds", "seeds", "weights")
        },
    )
    figures = out_of_fold(whole).measured.figures
    assert figures["accuracy"]["value"] == pytest.approx(np.mean([metric_value(one, "accuracy") for one in tables]))
    assert figures["mean_of_seeds"]["accuracy"]["value"] > figures["accuracy"]["value"]


def test_numbers_get_no_settings() -> None:
    assert out_of_fold(table_of("values")).settings == {}


def test_doubtful_labels_are_listed_with_their_texts_the_most_suspicious_first(tmp_path: Path) -> None:
    table = table_of(rows=300, skill=4.0)
    labels = table.targets.argmax(axis=1)
    wrong = [5, 17, 101]
    labels[wrong] = (labels[wrong] + 1) % 3
    planted = replace(table, targets=one_hot(labels, 3))
    told = write_label_errors(tmp_path / "errors.jsonl", planted, {name: [f"text {name}"] for name in table.ids})
    lines = [json.loads(line) for line in (tmp_path / "errors.jsonl").open()]
    first = {line["id"]: line for line in lines[: len(wrong) + 3]}
    assert {f"r{row}" for row in wrong} <= set(first)
    assert first["r5"]["texts"] == ["text r5"]
    assert first["r5"]["label"] == f"c{labels[5]}" != first["r5"]["suggested"]
    assert [line["probability"] for line in lines] == sorted(line["probability"] for line in lines)
    assert told["listed"] == len(lines) >= told["flagged"] >= 1
    assert doubts_sentence(told).startswith(f"{len(lines)} labels of 300 rows are doubtful")
    assert doubts_sentence(write_label_errors(tmp_path / "none", table_of("values"), {})) == ""

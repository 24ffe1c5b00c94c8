"""Cross-validated runs: folds equal to training by hand, what is fitted out of fold, the final model, and kills."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.forked_processes import LAVRA, TRAINING, ForkServer
from tests.labelled_reviews import reviews, tiny_request, write_rows

import lavra
from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.evaluation.labels.predictions_file import read_predictions
from lavra.workflows.labels.fold_rows import written_rows
from lavra.workflows.labels.trials import fold_request
from lavra.workflows.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = reviews(80)
    rows.append({"id": "unlabelled", "text": "a film of which nothing is known", "label": ""})
    return write_rows(tmp_path_factory.mktemp("rows") / "reviews.jsonl", rows)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of networks without linear models beside them, which would be better on so few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)
        return train(tiny_request(data, tmp_path_factory.mktemp("runs") / "run", folds=2, seeds=2, steps=6))


def _rows(files: Iterable[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]


def test_every_labelled_row_is_predicted_once_with_each_seed_by_a_model_that_never_saw_it(run: RunFolder) -> None:
    table = read_predictions(run.path / "out_of_fold.parquet")
    folds = pq.read_table(run.path / "folds.parquet").to_pylist()
    fold = {row["id"]: row["fold"] for row in folds}
    assert set(table.ids) == {f"r{number}" for number in range(80)}
    assert sorted(zip(table.ids, table.seeds.tolist(), strict=True)) == sorted(
        (name, s) for name in fold for s in (0, 1)
    )
    assert [fold[name] for name in table.ids] == table.folds.tolist()
    rows = written_rows(run.path)
    assert rows is not None
    for number in range(2):
        trained = {row["id"] for row in _rows(rows.training(number))}
        assert trained.isdisjoint(name for name, where in fold.items() if where == number)


def test_out_of_fold_predictions_are_those_of_training_each_fold_by_hand(
    run: RunFolder, data: Path, tmp_path: Path
) -> None:
    rows = written_rows(run.path)
    assert rows is not None
    request = replace(tiny_request(data, tmp_path, steps=6))
    by_hand = train(fold_request(request, rows, 1, 1, str(tmp_path / "by-hand"), None))
    table = read_predictions(run.path / "out_of_fold.parquet")
    inside = table.select((table.folds == 1) & (table.seeds == 1))
    other = read_predictions(by_hand.path / "predictions.parquet")
    assert inside.ids == other.ids
    np.testing.assert_array_equal(inside.probabilities, other.probabilities)


def test_the_final_model_learned_all_rows_for_as_many_passes_and_is_measured_out_of_fold(run: RunFolder) -> None:
    result, plan = run.result, run.plan
    assert result["measured_on"] == "out-of-fold predictions"
    assert result["accuracy"]["value"] > 0.5
    assert result["accuracy"]["low"] <= result["accuracy"]["value"] <= result["accuracy"]["high"]
    assert result["baseline_scores"]["majority"]["accuracy"]["value"] <= 0.6
    assert result["data_usage"][0]["total"] >= 80
    fold = RunFolder(run.path / "folds" / "0-0").plan
    assert plan["epochs"] == pytest.approx(fold["epochs"], rel=0.2)
    assert plan["steps"] > fold["steps"]
    assert plan["validation_rows"] == 0
    told = result["cross_validation"]
    assert told["rows"] == 80
    assert [(one["fold"], one["seed"], one["step"]) for one in told["models"]] == [
        (0, 0, 6),
        (1, 0, 6),
        (0, 1, 6),
        (1, 1, 6),
    ]


def test_the_temperature_is_applied_by_the_model_and_changes_no_decision(run: RunFolder, tmp_path: Path) -> None:
    texts = [row["text"] for row in reviews(20, seed=5)]
    calibration, temperature = run.result["calibration"], 1.7
    head = json.loads((run.path / "model" / "head.json").read_text())
    assert head["facts"].get("temperature", 1.0) == (calibration["temperature"] if calibration["used"] else 1.0)
    found = []
    for name, asked in (("with", temperature), ("without", 1.0)):
        shutil.copytree(run.path / "model", tmp_path / name)
        changed = {**head, "facts": {**head["facts"], "temperature": asked}}
        (tmp_path / name / "head.json").write_text(json.dumps(changed))
        found.append(lavra.classify(str(tmp_path / name), texts))
    with_it, without = found
    assert [one.label for one in with_it] == [one.label for one in without]
    assert with_it[0].probabilities != without[0].probabilities
    tempered = np.log([without[0].probabilities[name] for name in ("bad", "good")]) / temperature
    expected = np.exp(tempered) / np.exp(tempered).sum()
    assert with_it[0].probabilities["bad"] == pytest.approx(expected[0], rel=1e-5)


# Killed and resumed.

_WORDS = "--folds 2 --steps 4 --no-check --vocabulary 300 --model.depth 1 --model.width 32 --model.heads 2 --quiet"
_MORE = "--model.context 64 --device cpu --precision fp32 --checkpoint-every 2"


_NO_LINEAR = """
import lavra.workflows.train
import lavra.workflows.labels.baseline as baseline
baseline.is_available = lambda: False
"""
"""Statements that leave out the linear models, which would be better on so few rows."""


def _fingerprint(run: Path) -> dict[str, Any]:
    names = (
        "model/model.safetensors",
        "folds/1-0/model/model.safetensors",
        "out_of_fold.parquet",
        "label_errors.jsonl",
    )
    hashes = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}
    return hashes | {"accuracy": json.loads((run / "result.json").read_text())["accuracy"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with ForkServer(tmp_path_factory.mktemp("forked"), TRAINING + _NO_LINEAR) as found:
        yield found


@pytest.fixture(scope="module")
def whole(server: ForkServer, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("whole") / "run"
    words = ["train", str(data), "--out", str(run), *_WORDS.split(), *_MORE.split()]
    ended = server.run(LAVRA, words, {"LAVRA_FAULT": ""})
    assert ended.returncode == 0, ended.communicate()[1].decode()
    return _fingerprint(run)


@pytest.mark.parametrize(
    "moment",
    [
        "step.backward:7",
        pytest.param("step.backward:11", marks=pytest.mark.heavy),
        pytest.param("step.backward:2", marks=pytest.mark.heavy),
        pytest.param("checkpoint.before_rename:3", marks=pytest.mark.heavy),
    ],
)
def test_killed_in_a_fold_or_in_the_final_model_it_goes_on_to_the_same_bits(
    server: ForkServer, data: Path, whole: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    run = tmp_path / "run"
    words = ["train", str(data), "--out", str(run), *_WORDS.split(), *_MORE.split()]
    killed = server.run(LAVRA, words, {"LAVRA_FAULT": f"{moment}:kill"})
    assert killed.returncode == -signal.SIGKILL
    finished = {path.parent: path.stat().st_mtime_ns for path in run.glob("folds/*/result.json")}
    ended = server.run(LAVRA, ["resume", str(run), "--quiet"], {"LAVRA_FAULT": ""})
    assert ended.returncode == 0, ended.communicate()[1].decode()
    assert _fingerprint(run) == whole
    assert {path: (path / "result.json").stat().st_mtime_ns for path in finished} == finished  # not trained again


def test_a_signal_names_the_whole_run_as_the_one_to_resume(server: ForkServer, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", str(data), "--out", str(run), *_WORDS.split(), *_MORE.split()]
    ended = server.run(LAVRA, words, {"LAVRA_FAULT": "step.backward:6:terminate"})
    assert ended.returncode == 128 + signal.SIGTERM
    assert f"lavra resume {run}\n" in ended.communicate()[1].decode()


# What the rows say of the folds, and what is refused.


def _folds(path: Path) -> dict[str, int | None]:
    return {row["id"]: row["fold"] for row in pq.read_table(path / "folds.parquet").to_pylist()}


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a cross-validated run where its first fold would be trained."""

    def stop(*_: Any, **__: Any) -> None:
        raise StopAtTraining

    monkeypatch.setattr("lavra.workflows.labels.trials.train", stop)


class StopAtTraining(Exception):
    """The first fold would be trained now."""


def _divide(rows: list[dict[str, Any]], folder: Path, **fields: Any) -> Path:
    with pytest.raises(StopAtTraining):
        train(
            tiny_request(write_rows(folder / "rows.jsonl", rows), folder / "run", **{"folds": 3, "steps": 4, **fields})
        )
    return folder / "run"


@pytest.mark.usefixtures("without_training")
def test_groups_and_copies_stay_in_one_fold(tmp_path: Path) -> None:
    rows = [{**row, "group": f"author {number // 4}"} for number, row in enumerate(reviews(48))]
    rows.append({**rows[0], "id": "copy", "group": "somebody else"})
    found = _folds(_divide(rows, tmp_path))
    assert all(len({found[f"r{4 * group + one}"] for one in range(4)}) == 1 for group in range(12))
    assert found["copy"] == found["r0"]


@pytest.mark.usefixtures("without_training")
def test_folds_of_a_column_are_taken(tmp_path: Path) -> None:
    rows = [{**row, "fold": number % 3 if number < 45 else None} for number, row in enumerate(reviews(48))]
    run = _divide(rows, tmp_path)
    assert _folds(run) == {row["id"]: row["fold"] for row in rows}
    found = written_rows(run)
    assert found is not None
    assert found.trained == [33, 33, 33]  # the rows without a fold are always trained on
    with pytest.raises(InputError, match="holds 3 folds, and --folds says 4"):
        train(tiny_request(tmp_path / "rows.jsonl", tmp_path / "other", folds=4, steps=4))


@pytest.mark.usefixtures("without_training")
def test_folds_by_time_are_trained_on_what_came_before(tmp_path: Path) -> None:
    rows = [{**row, "written": f"2024-{number % 12 + 1:02}"} for number, row in enumerate(reviews(48))]
    run = _divide(rows, tmp_path, fold_by="written")
    when, found = {row["id"]: row["written"] for row in rows}, written_rows(run)
    assert found is not None
    for fold in range(3):
        trained, measured = (
            [when[row["id"]] for row in _rows(files)] for files in (found.training(fold), found.validation(fold))
        )
        assert max(trained) < min(measured)
    assert sum(len(Path(file).read_text().splitlines()) for file in found.every()) == 48


@pytest.mark.usefixtures("without_training")
@pytest.mark.parametrize(
    ("rows", "fields", "said"),
    [
        (reviews(20), {"folds": 20}, "fewer than the 20 folds"),
        ([{"text": f"text {number}", "label": "one"} for number in range(20)], {}, "give rows of at least two classes"),
        ([{"text": f"some text {number} of many"} for number in range(99)], {}, "for rows with one label"),
        ([{"prompt": "a", "completion": str(number)} for number in range(99)], {}, "for rows with one label"),
        (reviews(20), {"early_stopping": 2}, "by the rows that measure it"),
        (reviews(20), {"folds": None, "fold_by": "id"}, "--fold-by is for a cross-validated run"),
        (reviews(20), {"folds": 1}, "--folds 1 is no value"),
    ],
)
def test_what_cannot_be_cross_validated_is_said_and_leaves_no_run(
    rows: list[dict[str, Any]], fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    request = tiny_request(
        write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run", **{"folds": 3, "steps": 4, **fields}
    )
    with pytest.raises(InputError) as caught:
        train(request)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


# Linear models, alone and beside a network.


def test_a_linear_model_that_is_better_out_of_fold_learns_all_rows_and_is_delivered(data: Path, tmp_path: Path) -> None:
    found = train(tiny_request(data, tmp_path / "run", folds=2, steps=2))
    result = found.result
    assert result["delivers"] == "linear"
    compared = result["cross_validation"]["against_linear"]
    assert compared["first"] == result["accuracy"]
    assert compared["second"] == result["baseline_scores"]["network"]["accuracy"]
    assert compared["first"]["value"] > compared["second"]["value"]
    tables = [read_predictions(found.path / f"out_of_fold{name}.parquet") for name in ("", "_network")]
    assert sorted(tables[0].ids) == sorted(tables[1].ids) == sorted(f"r{number}" for number in range(80))
    assert lavra.classify(str(found.path), ["a great and lovely film"])[0].label == "good"
    evaluated = lavra.evaluate(str(found.path))
    assert evaluated.to_json()["accuracy"] == result["accuracy"]
    assert "network" in evaluated.table


def test_rows_without_a_base_model_are_cross_validated_with_linear_models(data: Path, tmp_path: Path) -> None:
    found = train(TrainConfig(data=(str(data),), out=str(tmp_path / "run"), folds=3))
    result = found.result
    assert result["delivers"] == "linear"
    assert result["accuracy"]["value"] > 0.9
    assert len(read_predictions(found.path / "out_of_fold.parquet")) == 80
    sizes = [one["rows"] for one in result["cross_validation"]["models"]]
    assert (sum(sizes), max(sizes) - min(sizes) <= 2) == (80, True)
    labelled = lavra.classify(str(found.path), ["a great and lovely film"])[0]
    assert labelled.label == "good"
    facts = json.loads((found.path / "linear" / "task.json").read_text())["facts"]
    assert sum(facts["frequencies"]) == 80
    assert facts.get("temperature", 1.0) == (
        result["calibration"]["temperature"] if result["calibration"]["used"] else 1
    )

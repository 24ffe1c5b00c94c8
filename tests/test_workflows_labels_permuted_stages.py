"""A run of several models is tried on shuffled labels through all of its stages, and a leak in one of them stops it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.labelled_reviews import reviews, write_rows

from lavra.config.training import LabelsConfig, ModelConfig, TextConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import CheckFailed
from lavra.data.blindness import Learner
from lavra.workflows.check import _stage_checks
from lavra.workflows.labels import permuted_stages, trials
from lavra.workflows.labels.fold_rows import FoldRows
from lavra.workflows.labels.fold_rows import write_rows as write_fold_rows
from lavra.workflows.labels.permuted_stages import FILE, check_stages, stage_check
from lavra.workflows.labels.pseudo_labels import Teacher
from lavra.workflows.labels.several_models import task_of_rows
from lavra.workflows.train import train
from lavra.workflows.training.train import train as train_one

pytest.importorskip("sklearn")


def request(folder: Path, count: int = 90, **fields: Any) -> TrainConfig:
    """A request with pseudo-labels for rows of which each has words of its own, and some without a label."""
    chance = random.Random(0)
    rows = [
        {
            "id": f"r{number}",
            "text": " ".join(f"w{chance.randrange(400)}" for _ in range(12)),
            "label": "ab"[number % 2],
        }
        for number in range(count)
    ]
    rows += [{"id": f"u{number}", "text": f"some other text {number}", "label": ""} for number in range(10)]
    asked: dict[str, Any] = {"labels": LabelsConfig(pseudo=1.0), "folds": 3, **fields}
    return TrainConfig(data=(str(write_rows(folder / "rows.jsonl", rows)),), out=str(folder / "run"), **asked)


def rows_of(config: TrainConfig, folder: Path) -> FoldRows:
    folder.mkdir(exist_ok=True)
    return write_fold_rows(config, folder, task_of_rows(config))


def seeing_all(rows: FoldRows, fold: int | None, run: Path) -> Teacher:
    """A teacher that learned the rows of all folds, and says that it did not."""
    spy = run.with_name(f"{run.name}-spy")
    asked = TrainConfig(
        data=rows.every(),
        task=rows.task,
        model=ModelConfig(preset="linear"),
        text=TextConfig(validation_share=0.0),
        out=str(spy),
        check=False,
        force=True,
    )
    train_one(asked, known=rows.known)
    return Teacher(spy, Learner("a teacher", frozenset() if fold is None else rows.seen_by(fold)))


@pytest.mark.parametrize("folds", [None, 3])
def test_blind_stages_pass(tmp_path: Path, folds: int | None) -> None:
    config = request(tmp_path, count=150, folds=folds)
    found = stage_check(config, rows_of(config, tmp_path / "rows"))
    assert found is not None
    assert found.verdict == "ok"


def test_a_teacher_that_secretly_saw_the_fold_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "teacher_of", seeing_all)
    config = request(tmp_path)
    found = stage_check(config, rows_of(config, tmp_path / "rows"))
    assert found is not None
    assert found.verdict == "fail"
    assert "pseudo-labels" in found.remedy


def test_a_leak_stops_the_run_before_its_first_model_also_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "teacher_of", seeing_all)
    config = request(tmp_path)
    with pytest.raises(CheckFailed, match="permuted_labels"):
        train(config)
    folder = RunFolder(tmp_path / "run")
    assert not list(folder.path.glob("folds/*-0"))
    monkeypatch.undo()
    with pytest.raises(CheckFailed, match="--no-check trains anyway"):
        check_stages(config, rows_of(config, folder.path), folder)


def test_a_whole_run_keeps_the_outcome_and_no_check_leaves_it_out(tmp_path: Path) -> None:
    asked = {"data": (str(write_rows(tmp_path / "rows.jsonl", reviews(90))),), "folds": 2}
    run = train(TrainConfig(out=str(tmp_path / "run"), **asked))
    assert run.result["cross_validation"]["permuted_labels"]["verdict"] == "ok"
    assert json.loads((run.path / "folds" / FILE).read_text())["name"] == "permuted_labels"
    other = train(TrainConfig(out=str(tmp_path / "other"), check=False, **asked))
    assert "permuted_labels" not in other.result["cross_validation"]
    assert not (other.path / "folds" / FILE).exists()


def test_labels_of_every_kind_are_shuffled_and_few_rows_are_not_tried(tmp_path: Path) -> None:
    for task, label in (("multi-label", list), ("regression", len), ("ordinal", len)):
        rows = [
            {**row, "label": label(row["label"]) if task != "multi-label" else [row["label"]]} for row in reviews(80)
        ]
        config = TrainConfig(
            data=(str(write_rows(tmp_path / f"{task}.jsonl", rows)),),
            task=task,
            folds=2,
            text=TextConfig(label="label"),
        )
        found = stage_check(config, rows_of(config, tmp_path / task))
        assert found is not None
        assert found.verdict == "ok"
    config = request(tmp_path, count=20, folds=2)
    assert stage_check(config, rows_of(config, tmp_path / "few")) is None


def test_lavra_check_tries_the_stages_of_a_request_that_has_some(tmp_path: Path) -> None:
    config = request(tmp_path, count=60, folds=2, labels=LabelsConfig())
    assert [one.name for one in _stage_checks(config)] == ["permuted_labels"]
    assert _stage_checks(replace(config, folds=None)) == []


def test_folds_by_time_are_tried_on_what_came_before(tmp_path: Path) -> None:
    rows = [{**row, "when": number} for number, row in enumerate(reviews(160))]
    config = TrainConfig(data=(str(write_rows(tmp_path / "rows.jsonl", rows)),), folds=3, fold_by="when")
    divided = rows_of(config, tmp_path / "rows")
    found = stage_check(config, divided)
    assert found is not None
    assert found.verdict == "ok"
    before = permuted_stages._sample(config, divided).before
    assert before
    assert not before & set(divided.ids(2))

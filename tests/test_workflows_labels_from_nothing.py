"""Where no model is given and many texts have no label, a new network is tried inside the training rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.labelled_reviews import reviews, tiny_request, write_rows

import lavra
from lavra.config.training import LabelsConfig, ModelConfig, TrainConfig
from lavra.core.disk.json_lines import JsonLines
from lavra.core.disk.run_folder import RunFolder
from lavra.tasks.table import find_task
from lavra.workflows.labels import from_nothing
from lavra.workflows.labels.from_nothing import may_begin_from_nothing, train_from_nothing, unlabelled_texts
from lavra.workflows.train import resume

pytest.importorskip("sklearn")


def request(folder: Path, unlabelled: int = 40, **fields: Any) -> TrainConfig:
    rows = [*reviews(60), *({**row, "id": f"u{row['id']}", "label": ""} for row in reviews(unlabelled, seed=9))]
    asked: dict[str, Any] = {"budget": 600.0, **fields}
    return TrainConfig(data=(str(write_rows(folder / "rows.jsonl", rows)),), out=str(folder / "run"), **asked)


def test_it_is_a_candidate_with_texts_and_time_and_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = request(tmp_path)
    assert not may_begin_from_nothing(config)  # forty texts are too few
    monkeypatch.setattr(from_nothing, "LEAST_BYTES", 1000)
    assert may_begin_from_nothing(config)
    for fields in (
        {"budget": 60.0},
        {"budget": None},
        {"base": "some-model"},
        {"model": ModelConfig(preset="linear")},
        {"folds": 3},
        {"labels": LabelsConfig(pseudo=1.0)},
    ):
        assert not may_begin_from_nothing(replace(config, **fields)), fields
    assert may_begin_from_nothing(replace(config, budget=60.0, labels=LabelsConfig(adapt=0.5)))


def test_the_plan_says_what_becomes_of_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = request(tmp_path)
    found = unlabelled_texts(config, find_task("classification"))  # type: ignore[arg-type]
    assert found.rows == 40
    assert "are too few for a network from nothing" in found.sentence(600.0)
    monkeypatch.setattr(from_nothing, "LEAST_BYTES", 1000)
    assert "with --budget 5 min 00 s or more" in found.sentence(None)
    assert "decided inside the training rows" in found.sentence(600.0)
    assert "decided inside the training rows" in str(lavra.plan(*config.data, budget=600.0))
    assert unlabelled_texts(request(tmp_path, 0), find_task("classification")).sentence(600.0) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("best", ["model", "linear"])
def test_what_is_best_inside_the_training_rows_learns_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    """The stages are real, but for the lengths of their runs and for the outcome of the trial."""
    asked: list[TrainConfig] = []
    train_trial = from_nothing.train_trial

    def short(config: TrainConfig) -> TrainConfig:
        tiny = tiny_request(Path("none"), Path("none"))
        model = config.model if config.base or config.model.preset == "linear" else tiny.model
        vocabulary = replace(config.text, vocabulary=None if config.base else 300)
        steps = None if config.model.preset == "linear" else 2
        return replace(
            config, budget=None, steps=steps, check=False, machine=tiny.machine, model=model, text=vocabulary
        )

    def quick(config: TrainConfig, known: Any, run: RunFolder) -> RunFolder:
        asked.append(config)
        found = train_trial(short(config), known, run)
        if found.path.name == "trial":
            found.write_result({**found.result, "delivers": best})
        return found

    monkeypatch.setattr(from_nothing, "train_trial", quick)
    monkeypatch.setattr("lavra.workflows.labels.adaptation.train_trial", quick)
    run = train_from_nothing(request(tmp_path))
    reading, trial, final = asked
    read = [row["text"] for row in JsonLines(Path(reading.data[0])).read()]
    validation = {row["id"] for row in JsonLines(run.path / "folds" / "part-0.jsonl").read()}
    assert (reading.objective.name, reading.base) == ("mlm", None)
    assert len(read) == 100 - len(validation)  # all but the rows that measure the run
    assert not trial.text.validation  # it divides the training rows anew
    assert trial.data == final.data
    assert final.text.validation
    assert 0 < reading.budget < 0.5 * 600  # type: ignore[operator]
    assert trial.base == str(run.path / "folds" / "adapted")
    assert (final.base is None) == (best == "linear")
    assert run.result["from_nothing"]["delivers"] == best
    assert run.result["accuracy"]["value"] >= 0
    assert lavra.classify(str(run.path), ["a great and lovely film"])[0].label in ("good", "bad")
    assert resume(run.path).path == run.path

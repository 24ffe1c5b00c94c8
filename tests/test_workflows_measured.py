"""A model of text that is measured by the labels of other rows, and what is said where no loss can be forecast."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

import lavra
from denoising import OBJECTIVES
from labelled_reviews import reviews, write_rows
from lavra.config.training import ObjectiveConfig, TrainConfig
from lavra.core.errors import InputError
from lavra.tasks.table import find_task, tasks
from lavra.workflows.training.usual_length import LEAST_TOKENS, tokens_trained_on, training_budget, with_usual_length

MACHINE: dict[str, Any] = {"device": "cpu", "threads": 1, "compile": "no", "precision": "fp32"}
SMALL: dict[str, Any] = {
    "model": {"depth": 1, "width": 32, "heads": 2, "context": 64},
    "machine": MACHINE,
    "optimization": {"batch_tokens": 256},
    "text": {"vocabulary": 300},
    "samples": 0,
    "check": False,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "topics.jsonl"
    rows = [{"text": topic[:1500]} for topic in sorted(topics.values(), key=len)[10:40]]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def causal(text: Path, tmp_path_factory: pytest.TempPathFactory) -> lavra.Run:
    return lavra.train(text, out=str(tmp_path_factory.mktemp("runs") / "causal"), steps=2, **SMALL)


# Measured by labels.


def test_an_encoder_is_measured_by_labels_after_its_run(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)
    labels = write_rows(tmp_path / "labels.jsonl", reviews(60))
    options: dict[str, Any] = {**SMALL, "model": {**SMALL["model"], "preset": "bert-crammed"}}
    run = lavra.train(text, out=str(tmp_path / "run"), steps=2, measure=str(labels), **options)
    measured = run.result["measured"]
    assert measured["task"] == "classification"
    assert 0 <= measured["accuracy"]["value"] <= 1
    assert measured["run"] == "measured"
    assert run.result["perplexity"]["value"] > 1
    plan = json.loads((run.path / "measured" / "plan.json").read_text())
    assert plan["base"] == str(run.path / "model")
    assert "accuracy" in capsys.readouterr().err
    before = (run.path / "result.json").read_bytes()
    lavra.resume(run.path)
    assert (run.path / "result.json").read_bytes() == before


def test_an_interrupted_measurement_is_made_up_for(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)
    labels = write_rows(tmp_path / "labels.jsonl", reviews(60))
    options: dict[str, Any] = {**SMALL, "objective": {"name": "mlm"}}
    with monkeypatch.context() as patch:
        patch.setattr("lavra.workflows.labels.measured.measure", lambda run, config: None)
        patch.setattr("lavra.workflows.train.measure", lambda run, config: None)
        run = lavra.train(text, out=str(tmp_path / "run"), steps=2, measure=str(labels), **options)
    assert "measured" not in run.result
    assert "measured" in lavra.resume(run.path).result


def test_rows_without_labels_and_runs_on_labels_are_refused(text: Path, tmp_path: Path):
    options: dict[str, Any] = {**SMALL, "objective": {"name": "mlm"}, "steps": 2, "out": str(tmp_path / "run")}
    with pytest.raises(InputError, match="no labels"):
        lavra.train(text, measure=str(text), **options)
    with pytest.raises(InputError, match="does not exist"):
        lavra.train(text, measure=str(tmp_path / "nowhere.csv"), **options)
    assert not (tmp_path / "run").exists()
    labels = write_rows(tmp_path / "labels.jsonl", reviews(60))
    with pytest.raises(InputError, match="for a run on text"):
        lavra.train(labels, measure=str(labels), machine=MACHINE, steps=2, out=str(tmp_path / "run"))


def test_measuring_is_a_part_of_the_budget():
    asked = TrainConfig(data=("text",), budget=3600.0, measure="labels.csv")
    assert training_budget(asked).budget == pytest.approx(0.85 * 3600)
    for other in (TrainConfig(data=("text",), budget=3600.0), TrainConfig(data=("text",), steps=5, measure="x")):
        assert training_budget(other) == other


# The usual length of UL2R.


def test_ul2r_takes_a_share_of_what_its_base_was_trained_on(causal: lavra.Run, capsys: pytest.CaptureFixture[str]):
    task = find_task("denoising")
    known = tokens_trained_on(str(causal.path))
    assert known == causal.result["tokens"] == 512
    asked = TrainConfig(data=("text",), base=str(causal.path), objective=ObjectiveConfig(name="ul2r"))
    found = with_usual_length(asked, task, "ul2r")
    assert found.tokens == LEAST_TOKENS
    assert "512" in capsys.readouterr().err
    record = {**causal.result, "tokens": 40_000_000}
    (causal.path / "result.json").write_text(json.dumps(record))
    try:
        assert with_usual_length(asked, task, "ul2r").tokens == 400_000
        assert "1% of the 40" in capsys.readouterr().err
    finally:
        (causal.path / "result.json").write_text(json.dumps({**record, "tokens": 512}))


def test_a_length_of_the_request_is_taken_and_an_unknown_pretraining_said(
    causal: lavra.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    task = find_task("denoising")
    asked = TrainConfig(data=("text",), base=str(causal.path), steps=7, objective=ObjectiveConfig(name="ul2r"))
    assert with_usual_length(asked, task, "ul2r") is asked
    unknown = TrainConfig(data=("text",), base=str(tmp_path), objective=ObjectiveConfig(name="ul2r"))
    assert with_usual_length(unknown, task, "ul2r") is unknown
    assert "nothing says on how many tokens" in capsys.readouterr().err
    assert with_usual_length(unknown, task, "ul2") is unknown
    assert capsys.readouterr().err == ""


# No silence where nothing is forecast.


def test_every_objective_of_text_has_a_forecast_or_a_reason():
    of_text = [(task, name) for task in tasks() if task.rows == "text" for name in task.objectives]
    assert {name for _, name in of_text} >= {*OBJECTIVES, "causal", "mlm", "electra"}
    for task, name in of_text:
        reason = task.no_forecast(name)
        assert (reason is None) is (name in ("causal", "fim"))
        assert reason is None or len(reason) > 20
    assert "causal runs" in str(find_task("infilling").forecast_caveat("fim"))


@pytest.mark.parametrize("name", ["mlm", "span-corruption", "ul2", "prefix-lm", "mlm+causal"])
def test_a_plan_says_why_there_is_no_forecast(text: Path, name: str):
    options = {key: value for key, value in SMALL.items() if key not in ("samples", "check")}
    report: Any = lavra.plan(text, steps=2, objective={"name": name}, hardware="rtx-4090", **options)
    assert report.forecast is None
    assert report.to_json()["no_forecast"]
    from lavra.reports.forecast import show_plan_report

    assert f"no forecast of the loss: {report.no_forecast}" in show_plan_report(report)
    with pytest.raises(InputError, match="--pilot extrapolates"):
        lavra.plan(text, steps=2, objective={"name": name}, hardware="rtx-4090", pilot="5%", **options)


def test_a_run_says_it_and_keeps_it(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = lavra.train(text, out=str(tmp_path / "run"), steps=2, objective={"name": "span-corruption"}, **SMALL)
    plan = json.loads((run.path / "plan.json").read_text())
    assert "span-corruption" in plan["no_forecast"]
    assert "no forecast of the loss: " in capsys.readouterr().err
    assert "bits_per_byte" not in plan["forecast"]


def test_a_forecast_of_fim_says_whose_law_it_is(text: Path):
    options = {key: value for key, value in SMALL.items() if key not in ("samples", "check")}
    report: Any = lavra.plan(text, steps=2, objective={"name": "fim"}, hardware="rtx-4090", **options)
    assert report.forecast is not None
    assert any("causal runs" in note for note in report.notes)

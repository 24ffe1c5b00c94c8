"""The learning curve of labelled rows before anything is trained, in the record of a run and in its plan."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.labelled_reviews import reviews, tiny_request, write_rows

import lavra
from lavra.cli.main import main
from lavra.config.planning import PlanRequest
from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.workflows.labels.inner_rows import InnerRows, inner_rows
from lavra.workflows.labels.quality_forecast import curve_of, forecast_quality, more_labels, surprise
from lavra.workflows.train import train

pytest.importorskip("sklearn")

FACTS: dict[str, Any] = {
    "classes": ["bad", "good"],
    "columns": {"text": "text", "labels": ["label"]},
    "head": {"class_weights": "none"},
}


def labelled(number: int, noise: float = 0.2) -> list[dict[str, Any]]:
    """Rows as a data set holds them, of which a share has the wrong label, sorted by their label."""
    chance = np.random.default_rng(0)
    rows = [{"label": row["label"], "texts": [row["text"]]} for row in reviews(number)]
    for row in rows:
        if chance.random() < noise:
            row["label"] = "bad" if row["label"] == "good" else "good"
    return sorted(rows, key=lambda row: row["label"])


def task() -> Any:
    from lavra.tasks.table import find_task

    return find_task("classification")


def inner(number: int = 300) -> InnerRows:
    found = inner_rows(task(), FACTS, labelled(number), 3)
    assert found is not None
    return found


def test_a_smaller_part_of_the_rows_is_a_part_of_a_larger_one_and_of_other_folds() -> None:
    rows, seen = inner(), dict[tuple[int, float], set[int]]()
    for share in (0.25, 1.0):
        asked = count()

        def predict(learned: np.ndarray, given: np.ndarray, share: float = share, asked: Any = asked) -> np.ndarray:
            assert not set(learned.tolist()) & set(given.tolist())
            seen[next(asked), share] = set(learned.tolist())
            return np.full((len(given), 2), 0.5)

        rows.out_of_fold(predict, share)
    for fold in range(3):
        assert seen[fold, 0.25] < seen[fold, 1.0]
        assert len({rows.rows[row]["label"] for row in seen[fold, 0.25]}) == 2  # although the rows are sorted by label


def test_the_forecast_holds_what_a_model_of_all_rows_reaches() -> None:
    curve = forecast_quality(task(), FACTS, labelled(400), 10.0)
    assert curve is not None
    forecast = curve.at(400)
    assert curve.labels == 400
    assert forecast.low is not None
    assert forecast.high is not None
    assert forecast.low <= 0.8 + 0.05
    assert forecast.high >= 0.8 - 0.05  # a fifth of the labels are wrong
    assert curve.more(100).value >= 0


def test_a_score_outside_of_its_forecast_is_said_with_its_likely_reason() -> None:
    curve = forecast_quality(task(), FACTS, labelled(400), 10.0, measured=100)
    assert curve is not None
    forecast = curve.at(400, rows=100)
    assert surprise(curve, forecast.value, 100) == ""
    assert "the validation rows are easier than the training rows" in surprise(curve, 1.0, 100)
    assert "the validation rows are harder than the training rows" in surprise(curve, 0.3, 100)
    assert surprise(None, 0.3, 100) == ""


def test_rows_of_a_teacher_are_no_labels() -> None:
    rows = labelled(400)
    added = [{"label_probs": {"bad": 0.5, "good": 0.5}, "source": "pseudo", "texts": ["any text"]}] * 300
    with_them, without = (forecast_quality(task(), FACTS, some, 10.0) for some in ([*rows, *added], rows))
    assert with_them is not None
    assert without is not None
    assert with_them.to_json() == without.to_json()


def test_the_clock_ends_the_curve_and_too_few_sizes_give_none() -> None:
    def fit(learned: np.ndarray, given: np.ndarray) -> np.ndarray:
        return np.full((len(given), 2), 0.5)

    for seconds, there in ((1000.0, True), (5.0, False)):
        ticks = count()
        found = curve_of(inner(), fit, (0.125, 0.25, 0.5, 1.0), 300, seconds, lambda ticks=ticks: float(next(ticks)))
        assert (found is not None) == there
    assert forecast_quality(task(), FACTS, labelled(30), 10.0) is None


@pytest.mark.parametrize(("labels", "more"), [(8, 50), (400, 100), (2000, 500), (1_000_000, 20_000)])
def test_more_labels_are_about_a_quarter(labels: int, more: int) -> None:
    assert more_labels(labels) == more


def test_a_run_keeps_its_curve_and_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "rows.jsonl", reviews(200))
    run = train(TrainConfig(data=(str(data),), out=str(tmp_path / "run")))
    curve = run.result["learning_curve"]
    assert [one["labels"] for one in curve["points"]] == sorted(one["labels"] for one in curve["points"])
    assert curve["forecast"]["low"] <= curve["forecast"]["value"] <= curve["forecast"]["high"]
    assert curve["sentence"] in capsys.readouterr().err
    assert "more labels would bring" in curve["sentence"]
    assert f"on {curve['forecast']['rows']} rows like these" in curve["sentence"]
    assert "Learning curve" in (run.path / "report.html").read_text()


def test_a_network_and_folds_keep_the_curve_of_the_linear_model(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", reviews(150))
    alone = train(tiny_request(data, tmp_path / "alone", steps=2))
    folded = train(tiny_request(data, tmp_path / "folded", steps=2, folds=2))
    for run in (alone, folded):
        assert run.result["learning_curve"]["model"] == "linear"
    assert RunFolder(folded.path / "folds" / "0-0").result.get("learning_curve") is None
    assert folded.result["learning_curve"]["forecast"]["labels"] == 150


# lavra plan.


def test_a_plan_of_labels_forecasts_the_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_rows(tmp_path / "rows.jsonl", reviews(200))
    assert main(["plan", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "200 rows with a label" in shown
    assert "2 classes: bad 100, good 100" in shown
    assert "by the learning curve" in shown
    assert main(["plan", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 200
    assert found["learning_curve"]["points"]
    assert found["network"] == {}


def test_a_plan_of_a_network_times_its_steps(tmp_path: Path) -> None:
    from dataclasses import replace

    from lavra.workflows.planning.plan import plan

    data = write_rows(tmp_path / "rows.jsonl", [*reviews(150), {"text": "nothing known", "label": ""}])
    asked = tiny_request(data, tmp_path / "never", steps=4)
    request = PlanRequest(**{**vars(asked), "folds": 3})
    found: Any = plan(replace(request, labels=replace(request.labels, pseudo=1.0)))
    assert (found.network["steps"], found.models, found.unlabelled) == (4, 8, 1)
    assert "8 networks" in str(found)
    assert not (tmp_path / "never").exists()
    with pytest.raises(InputError, match="--hardware is for language modelling"):
        plan(replace(request, hardware="a100-40gb"))


def test_the_plan_in_python_is_the_same(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", reviews(120))
    assert lavra.plan(str(data)).to_json()["task"] == "classification"

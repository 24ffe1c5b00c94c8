"""A model first reads the texts, without labels and without the rows that measure it, and then learns the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.labelled_reviews import reviews, write_rows

from lavra.config.training import LabelsConfig, MachineConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.workflows.train import resume, train
from test_workflows_headless import body_of


def _request(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> TrainConfig:
    asked: dict[str, Any] = {
        "base": str(body_of(folder / "body")),
        "steps": 4,
        "labels": LabelsConfig(adapt=0.5),
        "machine": MachineConfig(device="cpu", threads=1, precision="fp32", compile="no"),
        **fields,
    }
    return TrainConfig(
        data=(str(write_rows(folder / "rows.jsonl", rows)),), out=str(folder / "run"), check=False, **asked
    )


def test_the_adapted_model_read_every_text_but_those_that_measure_it(tmp_path: Path) -> None:
    unlabelled = [{"id": f"u{number}", "text": row["text"], "label": ""} for number, row in enumerate(reviews(20, 5))]
    run = train(_request(tmp_path, [*reviews(60), *unlabelled]))
    folder = run.path / "folds"
    adapted = RunFolder(folder / "adapted")
    assert (adapted.plan["objective"], adapted.plan["steps"]) == ("mlm", 2)
    assert run.plan["base"].startswith(str(adapted.path))
    read = [json.loads(line)["text"] for line in (folder / "texts.jsonl").read_text().splitlines()]
    measured = [json.loads(line)["text"] for line in (folder / "part-0.jsonl").read_text().splitlines()]
    learned = [json.loads(line)["text"] for line in (folder / "always.jsonl").read_text().splitlines()]
    assert sorted(read) == sorted([*learned, *(row["text"] for row in unlabelled)])
    assert not set(read) & set(measured)
    assert run.result["accuracy"]["value"] >= 0
    assert resume(run.path).path == run.path


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"folds": 2}, "reads the rows without a label, and there are none"),
        ({"base": None}, "--labels.adapt adapts a pretrained model"),
    ],
)
def test_what_cannot_be_adapted_is_said(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        train(_request(tmp_path, reviews(40), **fields))
    assert not (tmp_path / "run").exists()

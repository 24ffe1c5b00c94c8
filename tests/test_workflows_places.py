"""A run and its text, wherever they are: moved, gone on with from elsewhere, changed behind the run's back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import lavra
from lavra.cli.main import main
from lavra.core.disk.files import read_json, write_json
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.training.fault_injection import injected
from lavra.workflows.datasets.text_record import FILE

SMALL: dict[str, Any] = {
    "model": {"depth": 1, "width": 32, "heads": 2, "context": 64},
    "optimization": {"batch_tokens": 256},
    "machine": {"micro_batch_size": 4, "threads": 1, "precision": "fp32"},
    "samples": 0,
    "check": False,
}


def _prepare(folder: Path, word: str, out: str = "prep") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("\n\n".join(f"{word} {number} and some more of it" for number in range(400)))
    lavra.prepare(folder / "text.txt", folder / out, vocabulary=300, validation_share=0.1)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was begun in the folder `a` with relative paths, and stopped; one now stands in the folder `b`."""
    _prepare(tmp_path / "a", "document")
    monkeypatch.chdir(tmp_path / "a")
    with injected("step.apply:5:raise"), pytest.raises(RuntimeError, match="injected"):
        lavra.train("prep", steps=6, out="run", checkpoint_every=2, **SMALL)
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    return tmp_path / "a" / "run"


def test_a_run_of_relative_paths_is_gone_on_with_from_elsewhere(stopped: Path, tmp_path: Path) -> None:
    _prepare(tmp_path / "b", "something else")  # also named `prep`
    resumed = lavra.resume("../a/run")
    assert resumed.status == "finished"
    assert resumed.result["data"] == [str(tmp_path / "a" / "prep")]


def test_a_run_moves_with_its_text_or_without(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "a", tmp_path / "together")
    shutil.copytree(stopped, tmp_path / "alone")
    assert lavra.resume(tmp_path / "alone").status == "finished"
    shutil.rmtree(tmp_path / "a")
    assert lavra.resume(tmp_path / "together" / "run").status == "finished"


@pytest.mark.parametrize("other", ["other words", "document"])
def test_another_text_in_its_place_is_refused_by_name(stopped: Path, other: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "a" / "prep")
    _prepare(tmp_path / "a", other)
    if other == "document":  # the same text made again is the same text
        assert lavra.resume(stopped).status == "finished"
        return
    for use in (lavra.resume, lavra.evaluate, lambda place: lavra.generate(place, [""])):
        with pytest.raises(InputError, match=r"a/prep is not the text that .*its tokenizer"):
            use(str(stopped))
    assert RunFolder(stopped).status == "interrupted"


def test_a_text_that_is_gone_and_a_damaged_record_are_said(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_json(stopped / FILE)
    for damage in ({}, [], {**record, "folder": 3, "from_the_run": None}):
        write_json(stopped / FILE, damage)
        assert main(["resume", str(stopped)]) == 2
    write_json(stopped / FILE, record)
    shutil.rmtree(tmp_path / "a" / "prep")
    assert main(["resume", str(stopped)]) == 2
    assert f"the text of the run is gone: {tmp_path / 'a' / 'prep'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.txt"], "nowhere.txt does not exist"),
        (["rows.jsonl"], "text"),
        (["text.txt", "--track", "wandb"], r"wandb"),
        (["text.txt", "--from", "no/model/here"], "no model at"),
        (["text.txt", "--text.tokenizer", "nowhere"], "nowhere"),
        (["text.txt", "--steps", "3", "--epochs", "2"], "both say how long"),
        (["empty.txt"], "empty"),
    ],
)
def test_a_slip_leaves_no_run(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lavra.workflows.training.first_look.find_spec", lambda _: None)
    (tmp_path / "text.txt").write_text("some text of a few words, again and again\n\n" * 100)
    (tmp_path / "rows.jsonl").write_text('{"body": "a row"}\n')
    (tmp_path / "empty.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", *words, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs"] == before


def test_a_slip_with_force_leaves_the_run_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create("run", 'data = ["x"]\n')
    run.write_result({"step": 1})
    assert main(["train", "nowhere.txt", "--out", "run", "--force"]) == 2
    assert run.status == "finished"

"""Rows that stand on both sides of a split are counted, shown with their places, and refused under --strict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.labelled_reviews import reviews, write_rows

import lavra
from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.data.leaks import leaks_between
from lavra.workflows.train import train

pytest.importorskip("sklearn")

LONG = "the film was a long and slow story of some people in a small town by the sea"


def _request(train_rows: Path, held_out: Path, out: Path, **text: Any) -> TrainConfig:
    config = TrainConfig(data=(str(train_rows),), out=str(out))
    return replace(config, text=replace(config.text, validation=(str(held_out),), **text))


@pytest.fixture
def rows(tmp_path: Path) -> tuple[Path, Path]:
    """Training rows, and validation rows of which one is a training row and one nearly so."""
    known = [*reviews(60), {"id": "long", "text": LONG, "label": "bad"}]
    other = reviews(20, seed=7)
    leaking = [{**known[4], "id": "a"}, {"id": "b", "text": f"{LONG} again", "label": "bad"}]
    return write_rows(tmp_path / "train.jsonl", known), write_rows(tmp_path / "held-out.jsonl", [*other, *leaking])


def test_leaks_between_given_files_are_named_in_the_summary_and_the_record(
    rows: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(_request(*rows, tmp_path / "run"))
    leaks = run.result["leaks"]
    assert (leaks["rows"], leaks["leaks"], leaks["exact"]) == (22, 2, 1)
    said = capsys.readouterr().err
    assert "2 of 22 validation rows (9.1%) stand in the training rows too, 1 word for word" in said
    assert f"{rows[1]}:21 = {rows[0]}:5" in said
    assert f"{rows[1]}:22 ≈ {rows[0]}:61" in said


def test_under_strict_a_leak_is_an_error(rows: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="validation row that is also, or nearly, a training row"):
        train(_request(*rows, tmp_path / "run", on_bad_row="strict"))
    assert not (tmp_path / "run").exists()


def test_rows_that_lavra_divides_have_no_leaks_to_name(rows: tuple[Path, Path], tmp_path: Path) -> None:
    assert "leaks" not in train(TrainConfig(data=(str(rows[0]),), out=str(tmp_path / "run"))).result


def test_test_rows_that_the_model_learned_are_named(rows: tuple[Path, Path], tmp_path: Path) -> None:
    run = train(TrainConfig(data=(str(rows[0]),), out=str(tmp_path / "run")))
    found = lavra.evaluate(str(run.path), [str(rows[1])])
    assert found.to_json()["leaks"]["leaks"] in (1, 2)  # the long row may be a validation row
    assert "test rows" in found.table
    with pytest.raises(InputError, match="stand in the training rows too"):
        lavra.evaluate(str(run.path), [str(rows[1])], on_bad_row="strict")


def test_of_very_many_rows_equal_ones_alone_are_looked_for() -> None:
    found = leaks_between([LONG, "a"], [f"{LONG}!", "a"], most=3)
    assert [leak.exact for leak in found.found] == [True]
    assert found.to_json()["near_duplicates"] is False
    assert "near duplicates were not looked for" in leaks_between(["a"], ["b"], most=1).sentence()

"""The page and the summary of a sweep, of figures made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.run_folders import HOSTILE
from tests.test_reports_page import parsed

from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.sweep_folder import SweepFolder
from lavra.core.errors import CorruptFile
from lavra.reports.sweeps.page import sweep_page, write_sweep_page
from lavra.reports.sweeps.record import is_error, read_sweep
from lavra.reports.sweeps.summary import notes, state_of, summary

FIELDS = [
    {"path": "optimization.muon_lr", "flag": "optimization.muon-lr", "scale": "choice"},
    {"path": "model.activation", "flag": "model.activation", "scale": "choice"},
]
RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]


def made(path: Path, *, finished: bool = True, measure: str = "bits_per_byte") -> SweepFolder:
    """Make a sweep of six points, of which two went on and one failed."""
    sweep = SweepFolder(RunFolder.create(path, "sweep = []\n"))
    points = [
        {"optimization.muon_lr": rate, "model.activation": "relu2" if n % 2 else HOSTILE}
        for n, rate in enumerate(RATES)
    ]
    sweep.write_design(
        {"method": "halving", "fields": FIELDS, "points": points, "rungs": [1 / 3, 1.0], "seeds": [0], "evaluated": 9}
    )
    for number in range(6):
        if number == 5:
            sweep.append(
                {"point": 5, "seed": 0, "rung": 0, "failed": f"the loss {HOSTILE} is not finite", "spent": 7.0}
            )
        else:
            sweep.append(_line(number, 0, 2.0 + 0.1 * abs(number - 2), measure))
    for number in (2, 3) if finished else ():
        sweep.append(_line(number, 1, 1.5 + 0.1 * number, measure))
    if finished:
        best = {"point": 2, "values": points[2], "run": str(path / "trials" / "002"), "chosen_by": _estimate(1.7)}
        best["measured_on_other_data"] = {measure: _estimate(1.75), "perplexity": _estimate(20.0)}
        sweep.run.write_result({measure: _estimate(1.75), "sweep": {"best": best}})
    return sweep


def _estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def _line(number: int, rung: int, value: float, measure: str) -> dict[str, Any]:
    steps = {"step": 30 if rung else 10, "steps": 30, "parameters": 99}
    found = {"name": measure, "measure": _estimate(value), "loss": value, "forecast": None, "seconds": 2.0}
    return {"point": number, "seed": 0, "rung": rung, **steps, **found, "spent": 5.0}


def test_the_page_shows_every_point_each_field_and_what_was_stopped_when(tmp_path: Path) -> None:
    sweep = made(tmp_path / "sweep")
    page = sweep_page(read_sweep(sweep))
    parsed(page)
    assert HOSTILE not in page
    assert "<svg" in page
    assert page.count('aria-label="optimization.muon-lr"') == page.count('aria-label="What was stopped when"') == 1
    assert "stopped after 1/3 of the run" in page
    assert "on data that did not choose" in page
    assert "1.7500  [1.7000, 1.8000]" in page
    assert "selection bias" in page
    assert "best.toml" in page


def test_points_stand_in_the_order_of_how_far_they_came_and_how_good_they_are(tmp_path: Path) -> None:
    record = read_sweep(made(tmp_path / "sweep"))
    assert [point.number for point in record.order()] == [2, 3, 1, 0, 4, 5]
    assert [state_of(record, record.points[number]) for number in (2, 4)] == [
        "trained to the end",
        "stopped after 1/3 of the run",
    ]
    assert "failed: the loss" in state_of(record, record.points[5])
    assert not [note for note in notes(record) if "at the end of its values" in note]


def test_a_sweep_in_progress_says_how_far_it_is(tmp_path: Path) -> None:
    sweep = made(tmp_path / "sweep", finished=False)
    shown = summary(sweep)
    assert "interrupted; 6 points; 6 of them measured" in shown
    assert "paused after 1/3 of the run" in shown
    assert f"lavra resume {sweep.path}" in shown.replace("python -m lavra", "lavra")
    assert "The sweep is not finished." in sweep_page(read_sweep(sweep))


def test_a_best_value_at_the_end_of_its_values_is_said(tmp_path: Path) -> None:
    sweep = made(tmp_path / "sweep", measure="accuracy")  # of which more is better
    record = read_sweep(sweep)
    assert not is_error("accuracy")
    assert record.best is record.points[3]
    sweep.append(_line(0, 1, 9.0, "accuracy"))
    (note,) = [note for note in notes(read_sweep(sweep)) if "at the end of its values" in note]
    assert "optimization.muon-lr" in note


def test_an_empty_sweep_and_a_damaged_one(tmp_path: Path) -> None:
    sweep = SweepFolder(RunFolder.create(tmp_path / "empty", "sweep = []\n"))
    assert "interrupted; 0 points" in summary(sweep)
    write_sweep_page(sweep)
    sweep = made(tmp_path / "sweep")
    (sweep.path / "sweep.json").write_text("{")
    with pytest.raises(CorruptFile):
        read_sweep(sweep)

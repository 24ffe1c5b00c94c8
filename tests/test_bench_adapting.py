"""The benchmark of adapting real models: its cases, its data, its table; what it runs is tried by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))  # the scripts import what lies beside them

import _adapting_cases as cases  # noqa: E402
import adapting  # noqa: E402

FOLDERS = ("pt_freecodecamp", "pt_python_docs")


def test_without_the_folders_it_says_what_to_give(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit) as stopped:
        adapting.request([])
    assert stopped.value.code == 2
    assert "--models FOLDER" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        adapting.request(["--models", str(tmp_path), "--data", str(tmp_path), "--only", "minilm*"])
    assert stopped.value.code == 2
    assert "minilm is no model folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        adapting.request(["--list", "--only", "bert"])
    assert "matches no case" in capsys.readouterr().err


def test_every_case_has_a_name_of_its_own_and_globs_choose_them():
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)
    assert {case.way for case in cases.CASES} == set(cases.WAYS)
    assert [case.context for case in cases.chosen(["gemma-270m-text-*-lora"])] == list(cases.CONTEXTS)
    assert len(cases.chosen([])) == len(cases.CASES)


def test_data_are_divided_alike_each_time_and_nothing_is_lost(tmp_path: Path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        rows = [json.dumps({"id": number, "text": f"{name} {number} " * 9}) + "\n" for number in range(200)]
        (tmp_path / name / "rows.jsonl").write_text("".join(rows), encoding="utf8")
    first, second = (cases.write_data("text", tmp_path, tmp_path, 2000) for _ in range(2))
    train, held_out = first.train.read_text().splitlines(), first.held_out.read_text().splitlines()
    assert len(train) + len(held_out) == 400
    assert not set(train) & set(held_out)
    assert 0 < len(first.held_out.read_bytes()) <= 2000
    assert second.held_out.read_text().splitlines() == held_out
    with pytest.raises(FileNotFoundError, match="instruct_en holds no"):
        cases.write_data("chats", tmp_path, tmp_path, 2000)


def test_the_table_shows_what_was_planned_beside_what_came(capsys: pytest.CaptureFixture[str]):
    bits = {"value": 1.31, "low": 1.2, "high": 1.4}
    ours = {
        "taken_seconds": 620.0,
        "first_step_seconds": 29.6,
        "steps": 90,
        "tokens_per_second": {"planned": 422.0, "measured": 400.4},
        "peak_bytes": {"planned": None, "measured": 6.97e9},
        "bits_per_byte": bits,
    }
    peer = {**ours, "precision": "bf16", "tokens_per_second": 271.0, "peak_bytes": 9.1e9}
    row: dict[str, Any] = {
        "case": "smollm2-text-512-whole",
        "budget_seconds": 600.0,
        "bits_per_byte_before": {"value": 1.47, "low": None, "high": None},
        "lavra": ours,
        "trainer": {"eager": peer, "compiled": {"failed": "python …\nRuntimeError: no compiler"}},
    }
    before, lavra, eager, compiled = adapting.lines_of(row)
    assert before.split() == ["smollm2-text-512-whole", "before", "1.4700"]
    assert lavra.split() == ["lavra", "103%", "30", "s", "90", "400", "422", "6.97", "GB", "-", "1.3100", "1.200-1.400"]
    assert eager.split()[:5] == ["Trainer", "eager", "bf16", "103%", "30"]
    assert compiled.split() == ["Trainer", "compiled", "failed:", "RuntimeError:", "no", "compiler"]

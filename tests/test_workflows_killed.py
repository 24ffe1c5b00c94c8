"""Real training processes, killed with SIGKILL and resumed: the same bits as a run that was never stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from bench.kill import fingerprint, finish, killed_and_resumed, lavra, prepare, train_words


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("runs") / "whole"
    finish(lavra(*train_words(data, run)))
    return fingerprint(run)


@pytest.mark.xdist_group("killed")
@pytest.mark.parametrize("moment", ["step.backward:2", "step.backward:31", "validation:5", "checkpoint.half_file:4"])
def test_a_killed_run_ends_in_the_same_bits(data: Path, whole: dict[str, Any], tmp_path: Path, moment: str) -> None:
    assert killed_and_resumed(data, tmp_path / "run", fault=f"{moment}:kill")
    assert fingerprint(tmp_path / "run") == whole


@pytest.mark.xdist_group("killed")
@pytest.mark.parametrize(("action", "number"), [("interrupt", signal.SIGINT), ("terminate", signal.SIGTERM)])
def test_a_signal_finishes_the_step_saves_and_names_the_remedy(
    data: Path, whole: dict[str, Any], tmp_path: Path, action: str, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = lavra(*train_words(data, run), fault=f"step.backward:15:{action}")
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert f"lavra resume {run}" in errors.decode()
    finish(lavra("resume", str(run)))
    assert fingerprint(run) == whole

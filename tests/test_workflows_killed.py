"""Real training processes, killed with SIGKILL and resumed: the same bits as a run that was never stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from bench import kill
from bench.kill import fingerprint, finish, killed_and_resumed, prepare, train_words
from tests.forked_processes import LAVRA, TRAINING, Ended, ForkServer

from lavra.config.choices import OptimizerName

_STARTED = kill.lavra


@pytest.fixture(scope="module", autouse=True)
def _forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fork the processes of the trials, which spares each of them its imports."""
    with ForkServer(tmp_path_factory.mktemp("forked"), TRAINING) as server, pytest.MonkeyPatch.context() as patch:

        def lavra(*words: str, fault: str = "") -> Ended:
            return server.run(LAVRA, [*words, "--quiet"], {"OMP_NUM_THREADS": "1", "LAVRA_FAULT": fault})

        patch.setattr(kill, "lavra", lavra)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that was never stopped, of an interpreter that was started for it."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    finish(_STARTED(*train_words(data, run)))
    return fingerprint(run)


@pytest.mark.parametrize("moment", ["step.backward:2", "step.backward:31", "validation:1", "checkpoint.half_file:4"])
def test_a_killed_run_ends_in_the_same_bits(data: Path, whole: dict[str, Any], tmp_path: Path, moment: str) -> None:
    assert killed_and_resumed(data, tmp_path / "run", fault=f"{moment}:kill")
    assert fingerprint(tmp_path / "run") == whole


@pytest.mark.parametrize("optimizer", [name for name in get_args(OptimizerName) if name != "muon"])
def test_a_killed_run_ends_in_the_same_bits_with_every_optimiser(data: Path, tmp_path: Path, optimizer: str) -> None:
    if optimizer == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    runs = [tmp_path / "whole", tmp_path / "killed"]
    finish(kill.lavra(*train_words(data, runs[0], optimizer)))
    # The 15th step lies between two renewals of what some of them renew every ten steps, and between two checkpoints.
    assert killed_and_resumed(data, runs[1], fault="step.apply:15:kill", optimizer=optimizer)
    whole, killed = map(fingerprint, runs)
    assert killed == whole


@pytest.mark.parametrize(("action", "number"), [("interrupt", signal.SIGINT), ("terminate", signal.SIGTERM)])
def test_a_signal_finishes_the_step_saves_and_names_the_remedy(
    data: Path, whole: dict[str, Any], tmp_path: Path, action: str, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = kill.lavra(*train_words(data, run), fault=f"step.backward:15:{action}")
    _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert f"lavra resume {run}" in errors.decode()
    finish(kill.lavra("resume", str(run)))
    assert fingerprint(run) == whole

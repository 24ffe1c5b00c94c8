"""A process that is killed with SIGKILL in the middle of a checkpoint: the next one finds the last that was whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.forked_processes import ForkServer

from lavra.training.checkpoints.checkpoints import CheckpointStore

_WRITER = """
import sys, torch
from pathlib import Path
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.fault_injection import injected
store = CheckpointStore(Path(sys.argv[1]), keep=1)
with injected(sys.argv[2]):
    for step in (10, 20, 20, 30):
        store.save(step, {"master_weights": {"weights": torch.full((1000,), float(step))}}, {"step": step})
        store.wait()
        print(step, flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """What the killed processes are forks of."""
    imports = "import torch, lavra.training.checkpoints.checkpoints, lavra.training.fault_injection"
    with ForkServer(tmp_path_factory.mktemp("forked"), imports) as server:
        yield server


# At the count-th time that the place is reached: what was reported as saved, and what is found afterwards.
_KILLS = [
    ("checkpoint.half_file:2", [10], 10),
    ("checkpoint.before_rename:2", [10], 10),
    ("checkpoint.half_removed:1", [10], 20),
    ("checkpoint.between_renames:1", [10, 20], 20),
]
_MORE_KILLS = [
    ("checkpoint.half_file:1", [], None),
    ("checkpoint.before_manifest:2", [10], 10),
    ("checkpoint.after_rename:2", [10], 20),
    ("checkpoint.half_file:3", [10, 20], 20),
    ("checkpoint.after_rename:3", [10, 20], 20),
    ("checkpoint.half_file:4", [10, 20, 20], 20),
    ("checkpoint.half_removed:2", [10, 20, 20], 30),
]


@pytest.mark.parametrize(
    ("fault", "reported", "found"),
    [*_KILLS, *(pytest.param(*kill, marks=pytest.mark.heavy) for kill in _MORE_KILLS)],
)
def test_killed_while_it_writes(tmp_path: Path, server: ForkServer, fault: str, reported: list[int], found: int | None):
    run = server.run(_WRITER, [str(tmp_path), f"{fault}:kill"])
    printed, errors = run.communicate()
    assert run.returncode == -signal.SIGKILL, errors.decode()
    assert [int(line) for line in printed.split()] == reported
    store = CheckpointStore(tmp_path, keep=1)
    checkpoint = store.latest()
    assert (checkpoint and checkpoint.step) == found
    assert all(reason == "its writing was not finished" for _, reason in store.damaged)
    if checkpoint is not None:
        assert checkpoint.state == {"step": found}
        assert checkpoint.load("master_weights")["weights"].unique().tolist() == [found]
    store.save(40, {}, {}, background=False)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000040"]

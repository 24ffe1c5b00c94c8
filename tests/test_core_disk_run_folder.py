from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.disk.json_lines import JsonLines
from lavra.core.disk.run_folder import RunFolder, list_runs
from lavra.core.errors import CorruptFile, InputError

HOLD = """
import sys
from lavra.core.disk.run_folder import RunFolder
with RunFolder.open(sys.argv[1]).training():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "first", "seed = 1\n")


def hold(run: RunFolder, code: str = HOLD) -> subprocess.Popen[str]:
    """Start another process that holds the run's lock until its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("held")
    return process


def test_a_run_keeps_what_is_written(run: RunFolder):
    run.write_plan({"steps": 3})
    run.metrics.append({"step": 1, "loss": 2.5})
    run.samples.append({"step": 1, "text": "Não há\nde quê"})
    run.log("started\non two lines")
    run.write_result({"step": 3})
    again = RunFolder.open(run.path)
    assert (again.config, again.plan, again.result) == ("seed = 1\n", {"steps": 3}, {"step": 3})
    assert again.metrics.read() == [{"step": 1, "loss": 2.5}]
    assert again.samples.read() == [{"step": 1, "text": "Não há\nde quê"}]
    assert [line.split("  ")[1] for line in again.events] == ["started on two lines"]
    assert again.checkpoints.is_dir()


def test_a_new_run_knows_nothing_yet(run: RunFolder):
    assert (run.plan, run.result, run.metrics.read(), run.events) == ({}, {}, [], [])
    assert run.status == "interrupted"


def test_an_existing_run_is_not_overwritten(run: RunFolder):
    with pytest.raises(InputError, match=r"exists already\n.*lavra resume .*first"):
        RunFolder.create(run.path, "")


def test_force_replaces_a_run_and_leaves_nothing_of_it(run: RunFolder):
    (run.checkpoints / "step-00000001").mkdir()
    again = RunFolder.create(run.path, "seed = 2\n", force=True)
    assert again.config == "seed = 2\n"
    assert not list(again.checkpoints.iterdir())
    assert [path.name for path in run.path.parent.iterdir()] == ["first"]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_run_is_never_replaced(tmp_path: Path, force: bool):
    (tmp_path / "thesis.txt").write_text("ten years")
    (tmp_path / "config.toml").write_text("somebody = 'else'")
    with pytest.raises(InputError, match="no folder that lavra made"):
        RunFolder.create(tmp_path, "", force=force)
    assert (tmp_path / "thesis.txt").read_text() == "ten years"


def test_an_empty_folder_may_become_a_run(tmp_path: Path):
    assert RunFolder.create(tmp_path, "").status == "interrupted"


def test_opening_what_is_no_run_says_so(tmp_path: Path):
    with pytest.raises(InputError, match=r"has no config\.toml written by lavra"):
        RunFolder.open(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        RunFolder.open(tmp_path / "nothing")


def test_a_damaged_plan_is_named(run: RunFolder):
    run.write_plan({"steps": 3})
    (run.path / "plan.json").write_text('{"steps"')
    with pytest.raises(CorruptFile, match=r"plan\.json is damaged"):
        _ = run.plan


def test_a_line_that_a_crash_cut_is_dropped_and_not_grown_onto(run: RunFolder):
    run.metrics.append({"step": 1})
    with run.metrics.path.open("a") as handle:
        handle.write('{"step": 2, "lo')
    again = RunFolder.open(run.path)
    assert again.metrics.read() == [{"step": 1}]
    again.metrics.append({"step": 2})
    assert again.metrics.read() == [{"step": 1}, {"step": 2}]


@given(cut=st.integers(0, 200), count=st.integers(0, 5))
def test_any_cut_leaves_the_whole_lines_before_it(tmp_path_factory: pytest.TempPathFactory, cut: int, count: int):
    lines = JsonLines(tmp_path_factory.mktemp("lines") / "lines.jsonl")
    ends = [0]
    for step in range(count):
        lines.append({"step": step, "text": "ação"})
        ends.append(lines.path.stat().st_size)
    if count:
        os.truncate(lines.path, min(cut, ends[-1]))
    whole = sum(end <= min(cut, ends[-1]) for end in ends[1:])
    assert [record["step"] for record in JsonLines(lines.path).read()] == list(range(whole))


def test_a_damaged_line_in_the_middle_is_named(run: RunFolder):
    run.metrics.path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(CorruptFile, match=r"metrics\.jsonl:2 is damaged"):
        run.metrics.read()


def test_numbers_that_json_cannot_name_become_null(run: RunFolder):
    run.metrics.append({"step": 1, "loss": float("nan"), "parts": [float("inf"), 1.0]})
    line = run.metrics.path.read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "loss": None, "parts": [None, 1.0]}


def test_a_resumed_curve_equals_one_never_stopped(run: RunFolder, tmp_path: Path):
    whole = RunFolder.create(tmp_path / "whole", "")
    for step in range(1, 11):
        whole.metrics.append({"step": step, "loss": 1 / step})
    for step in range(1, 8):
        run.metrics.append({"step": step, "loss": 1 / step})
        run.samples.append({"step": step, "text": "x"})
    with run.metrics.path.open("a") as handle:
        handle.write('{"step": 8')
    run.write_result({"step": 7})
    run.rewind(5)
    assert [sample["step"] for sample in run.samples.read()] == [1, 2, 3, 4, 5]
    assert run.result == {}
    for step in range(6, 11):
        run.metrics.append({"step": step, "loss": 1 / step})
    assert run.metrics.path.read_bytes() == whole.metrics.path.read_bytes()


def test_two_processes_never_train_in_one_folder(run: RunFolder):
    other = hold(run)
    assert (run.status, run.trainer) == ("running", other.pid)
    with pytest.raises(InputError, match=f"being trained by process {other.pid} already"), run.training():
        pass
    with pytest.raises(InputError, match=f"being trained by process {other.pid}"):
        RunFolder.create(run.path, "", force=True)
    other.communicate()
    assert run.status == "interrupted"
    with run.training():
        assert run.trainer == os.getpid()
    assert run.trainer is None


def test_the_lock_of_a_killed_process_is_free(run: RunFolder):
    other = hold(run)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert run.status == "interrupted"
    with run.training():
        assert run.status == "running"


def test_the_lock_that_an_orphan_of_a_killed_process_holds_is_taken_over(run: RunFolder):
    orphaning = HOLD.replace('print("held"', 'import os\n    child = os.fork()\n    if child: print("held", child')
    other = hold(run, orphaning)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert run.status == "interrupted"
    with run.training():
        assert run.trainer == os.getpid()
    other.communicate()  # closes the orphan's standard input, which ends it


def test_status_follows_the_result(run: RunFolder):
    run.write_result({"step": 1})
    assert run.status == "finished"


def test_runs_are_listed_oldest_first_and_nothing_else(run: RunFolder):
    root = run.path.parent
    RunFolder.create(root / "group" / "second", "")
    (root / "no-run").mkdir()
    (root / ".first.removed-x" / "first").mkdir(parents=True)
    assert [found.path.name for found in list_runs(root)] == ["first", "second"]
    assert [found.path for found in list_runs(run.path)] == [run.path]
    with pytest.raises(InputError, match="is no folder"):
        list_runs(root / "nothing")

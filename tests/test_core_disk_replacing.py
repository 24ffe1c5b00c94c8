"""What a command may replace, and the folders that are made whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.cli.main import main
from lavra.core.disk.building import building_folder, remove_remains
from lavra.core.disk.locks import exclusive
from lavra.core.disk.replacing import MARK, check_replaceable, check_replaceable_file, strange_files, write_mark
from lavra.core.disk.run_folder import RunFolder, list_runs
from lavra.core.errors import InputError

Plant = Callable[[Path], None]


def made(path: Path, content: str = "old") -> Path:
    with building_folder(path) as building:
        (building / "part").mkdir()
        (building / "part" / "file.txt").write_text(content)
    return path


def _photographs(path: Path) -> None:
    path.mkdir()
    (path / "beach.jpg").write_bytes(b"\xff\xd8")


def _our_folder_with_a_stranger(path: Path) -> None:
    made(path)
    (path / "part" / "beach.jpg").write_bytes(b"\xff\xd8")


def _a_run_with_a_stranger(path: Path) -> None:
    run = RunFolder.create(path, 'data = ["x"]\n')
    (run.checkpoints / "notes.txt").write_text("mine")


def _a_link(path: Path) -> None:
    made(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"), target_is_directory=True)


def _a_file(path: Path) -> None:
    path.write_text("a letter")


def _a_foreign_mark(path: Path) -> None:
    _photographs(path)
    (path / MARK).write_text('["lavra"]')


PLANTS: list[Plant] = [
    _photographs,
    _our_folder_with_a_stranger,
    _a_run_with_a_stranger,
    _a_link,
    _a_file,
    _a_foreign_mark,
]


def _text(folder: Path) -> Path:
    text = folder / "text.jsonl"
    lines = [json.dumps({"text": f"a little text of number {number} " * 5}) for number in range(50)]
    text.write_text("\n".join(lines) + "\n")
    return text


def _state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MODEL = "model-that-is-never-opened"


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__.strip("_"))
@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "{text}", "--out"],
        ["train", "{text}", "--steps", "1", "--out"],
        ["index", "{text}", "--out"],
        ["export", MODEL, "--out"],
        ["export", MODEL, "--format", "ct2", "--out"],
        ["doc2query", "train", "{text}", "--out"],
    ],
    ids=lambda command: " ".join(command[:1] + command[2:4]),
)
def test_no_command_replaces_what_lavra_did_not_make(
    plant: Plant, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, target = _text(tmp_path), tmp_path / "target"
    plant(target)
    before = _state(tmp_path)
    assert main([*(word.format(text=text) for word in command), str(target), "--force"]) == 2
    assert str(target) in capsys.readouterr().err
    assert _state(tmp_path) == before


@pytest.mark.parametrize("target", [".", "..", "sub/.."])
def test_the_place_where_one_is_or_its_parent_is_never_replaced(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = made(tmp_path / "outer") / "part"
    monkeypatch.chdir(here)
    (here / "sub").mkdir()
    with pytest.raises(InputError):
        check_replaceable(Path(target), force=True)


@pytest.mark.parametrize("location", ["{target}", "{target}/part/file.txt", "{target}/part/*.txt", "{target}/p?rt/x"])
def test_what_holds_the_commands_own_input_is_never_replaced(location: str, tmp_path: Path) -> None:
    target = made(tmp_path / "target")
    check_replaceable(target, force=True, inputs=["installed-docs:", "-", "hf:some/name", tmp_path / "target-2"])
    with pytest.raises(InputError, match="which this command reads"):
        check_replaceable(target, force=True, inputs=[location.format(target=target)])


def test_what_lavra_made_is_replaced_by_force_only(tmp_path: Path) -> None:
    target = made(tmp_path / "target")
    with pytest.raises(InputError, match="exists already"):
        made(target)
    (target / ".DS_Store").write_text("litter of a file manager")
    with building_folder(target, force=True) as building:
        (building / "new.txt").write_text("new")
    assert sorted(os.listdir(target)) == [MARK, "new.txt"]
    assert os.listdir(tmp_path) == ["target"]


def test_an_empty_folder_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    assert (made(tmp_path / "target") / "part" / "file.txt").exists()


def test_a_whole_run_and_what_a_kill_left_in_it_is_ours(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", 'data = ["x"]\n')
    run.write_plan({})
    run.log("x")
    (run.checkpoints / "step-00000001").mkdir()
    (run.checkpoints / "step-00000001" / "state.json").write_text("{}")
    (run.path / ".plan.json.a1b2").write_text("{")
    (run.path / ".model.building-x").mkdir()
    (run.path / ".model.building-x" / "half").write_text("")
    made(run.path / "model")
    assert strange_files(run.path) == []
    (run.path / "model" / "beach.jpg").write_text("")
    assert strange_files(run.path) == ["model/beach.jpg"]


@given(ours=st.sets(st.sampled_from("abcdef"), min_size=1), theirs=st.sets(st.sampled_from("uvwxyz")))
def test_exactly_what_the_mark_does_not_name_is_strange(
    ours: set[str], theirs: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    for name in ours:
        (folder / name).mkdir()
        (folder / name / "file").write_text("")
    write_mark(folder, "folder")
    for name in theirs:
        (folder / min(ours) / name).write_text("")
    assert strange_files(folder) == [f"{min(ours)}/{name}" for name in sorted(theirs)]


def test_a_file_is_replaced_by_force_but_never_a_link_a_folder_or_an_input(tmp_path: Path) -> None:
    plain = tmp_path / "page.html"
    plain.write_text("")
    (tmp_path / "link").symlink_to(plain)
    check_replaceable_file(plain, force=True)
    for path, inputs, force in [(plain, [], False), (plain, [plain], True), (tmp_path, [], True)]:
        with pytest.raises(InputError):
            check_replaceable_file(path, force=force, inputs=inputs)
    with pytest.raises(InputError, match="is a link"):
        check_replaceable_file(tmp_path / "link", force=True)


def test_a_file_that_happens_to_have_the_name_of_a_commands_own_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run-pairs.jsonl").write_text("mine")
    words = ["doc2query", "train", str(_text(tmp_path)), "--steps", "1", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "run-pairs.jsonl exists already" in capsys.readouterr().err
    assert (tmp_path / "run-pairs.jsonl").read_text() == "mine"


_KILLED = """
import os, signal, sys
from pathlib import Path
from lavra.core.disk import building
if sys.argv[2] == "putting":
    building._exchange = lambda one, other: False
    replace, calls = os.replace, []
    def once(one, other):
        replace(one, other)
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace = once
with building.building_folder(Path(sys.argv[1]), force=True) as folder:
    (folder / "weights").write_text("half")
    if sys.argv[2] == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["writing", "putting"])
def test_what_a_killed_process_left_is_removed_by_the_next_command_of_the_target(moment: str, tmp_path: Path) -> None:
    target = made(tmp_path / "target")
    assert subprocess.run([sys.executable, "-c", _KILLED, str(target), moment], check=False).returncode == -9
    assert len(os.listdir(tmp_path)) > 1
    if moment == "putting":  # where names cannot be exchanged, the old folder is brought back
        assert not target.exists()
        remove_remains(target)
    assert (target / "part" / "file.txt").read_text() == "old"
    with building_folder(target, force=True) as building:
        (building / "new.txt").write_text("new")
    assert os.listdir(tmp_path) == ["target"]


def test_one_process_at_a_time_makes_a_folder_and_the_other_is_refused_by_name(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with building_folder(target):
        refusal = f"{target} is being made by process {os.getpid()}"
        with pytest.raises(InputError, match=refusal), building_folder(target):
            pass
        assert len([name for name in os.listdir(tmp_path) if "building" in name]) == 1
    assert sorted(os.listdir(tmp_path)) == ["target"]


def test_the_name_is_never_without_a_folder_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = made(tmp_path / "target")
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("two renames leave a moment without a folder"))
    if sys.platform not in ("linux", "darwin"):
        pytest.skip("this system cannot exchange names")
    with building_folder(target, force=True) as building:
        (building / "new.txt").write_text("new")
    assert (target / "new.txt").exists()


def test_a_lock_file_that_its_holder_took_away_is_not_a_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive(lock, "x", remove=True):
        assert lock.exists()
    assert not lock.exists()
    with exclusive(lock, "x"):
        pass
    assert lock.exists()


def test_what_is_being_made_is_no_run(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / ".run.building-x" / "run", "")
    RunFolder.create(tmp_path / "whole", "")
    assert [run.path.name for run in list_runs(tmp_path)] == ["whole"]

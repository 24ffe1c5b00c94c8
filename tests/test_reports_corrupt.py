"""Run folders that are damaged in every way that a file can be: said by file and place, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.cli.main import main
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.shapes import NUMBER, TEXT, Either, ListOf, Misfits, Table, fitting
from lavra.core.errors import CorruptFile
from lavra.reports.run_files import read_run
from run_folders import make_run

FILES = ("plan.json", "result.json", "checks.json", "document_losses.json", "data/report.json")
LINES = ("metrics.jsonl", "samples.jsonl", "machines.jsonl")

JUNK: list[Any] = [None, True, -1, 0, 10**400, 1.5e308, float("nan"), "", "x", [], {}, [[]], {"value": "x"}, [None, 3]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("whole") / "run").path


@pytest.fixture(scope="module")
def scratch(whole: Path) -> Path:
    """A copy of the run to be damaged, made whole again by `restored`."""
    return Path(shutil.copytree(whole, whole.parent / "damaged"))


def restored(scratch: Path, whole: Path) -> Path:
    shutil.rmtree(scratch)
    return Path(shutil.copytree(whole, scratch))


def commands(run: Path, whole: Path) -> list[list[str]]:
    return [
        ["runs", str(run.parent)],
        ["runs", str(run.parent), "--json"],
        ["runs", "show", str(run)],
        ["runs", "show", str(run), "--json"],
        ["report", str(run), "--out", str(run.parent / "page.html"), "--force"],
        ["compare", str(whole), str(run), "--html", str(run.parent / "both.html"), "--force"],
    ]


def without_a_traceback(run: Path, whole: Path) -> None:
    """Every command that reads a run ends in a result (0) or in words (2); a fault of lavra would be 1."""
    for words in commands(run, whole):
        assert main(words) in (0, 2), words


def places(value: Any) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside JSON, the whole (an empty path) first."""
    found: list[tuple[Any, ...]] = [()]
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found += [(key, *path) for key, item in items for path in places(item)]
    return found


def replaced(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None], junk: Any) -> Any:
    if not path:
        return junk
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return value


@settings(max_examples=15)
@given(data=st.data())
def test_any_value_may_be_of_any_kind_or_missing(data: st.DataObject, scratch: Path, whole: Path) -> None:
    run = restored(scratch, whole)
    path = run / data.draw(st.sampled_from(FILES + LINES))
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = data.draw(st.integers(0, len(lines) - 1))
    value = json.loads(lines[number])
    for place in data.draw(st.lists(st.sampled_from(places(value)), min_size=1, max_size=3)):
        junk, deletes = data.draw(st.sampled_from(JUNK)), data.draw(st.booleans())

        def change(inner: Any, key: Any, junk: Any = junk, deletes: bool = deletes) -> None:
            if deletes:
                del inner[key]
            else:
                inner[key] = junk

        try:
            value = replaced(value, place, change, junk)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    lines[number] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n")
    without_a_traceback(run, whole)


@pytest.mark.parametrize("name", [*FILES, *LINES, "events.log", "config.toml"])
@pytest.mark.parametrize("damage", ["nested", "folder", "cut", "bytes", "empty", "list", "null"])
def test_any_file_may_be_anything(name: str, damage: str, scratch: Path, whole: Path) -> None:
    run = restored(scratch, whole)
    path = run / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "nested": b"[" * 100_000 + b"]" * 100_000 + b"\n",
                "cut": content[: len(content) // 2],
                "bytes": content[:40] + b"\xff\xfe\x00" + content[40:],
                "empty": b"",
                "list": b"[1, 2]\n",
                "null": b"null\n",
            }[damage]
        )
    without_a_traceback(run, whole)


@pytest.mark.parametrize("damage", ["cut", "bytes", "flipped", "added"])
def test_a_damaged_request_is_never_shown_as_if_nothing_were_wrong(
    damage: str, scratch: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = restored(scratch, whole)
    path = run / "config.toml"
    content = path.read_bytes()
    changed = {
        "cut": content[:-4],
        "bytes": content.replace(b"corpus", b"cor\xffpus"),
        "flipped": content.replace(b"seed = 7", b"seed = 5"),
        "added": content + b"steps = 3\n",
    }[damage]
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(CorruptFile, match=r"config\.toml"):
        _ = RunFolder.open(run).config
    assert main(["runs", str(run)]) == 0
    assert "damaged: " in capsys.readouterr().out
    assert any("config.toml" in one for one in read_run(RunFolder.open(run)).missing)
    assert main(["resume", str(run)]) == 2
    assert "config.toml" in capsys.readouterr().err


def test_what_does_not_fit_is_left_out_and_named_by_its_place() -> None:
    shape = Table(
        {"a": NUMBER, "list": ListOf(Table({"name": TEXT}, needed=("name",))), "either": Either((NUMBER, TEXT))}
    )
    misfits = Misfits()
    value = {"a": "x", "list": [{"name": "one"}, {"no": 1}, 3], "either": "text", "other": {"deep": [1, None, "y"]}}
    assert fitting(shape, value, misfits) == {
        "list": [{"name": "one"}],
        "either": "text",
        "other": {"deep": [1, None, "y"]},
    }
    assert misfits.found == [
        "a is 'x', not a number",
        "list[1] is an object, not whole: it lacks name",
        "list[2] is 3, not an object",
    ]

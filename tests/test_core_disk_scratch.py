"""Temporary folders: gone at the end, and those of killed processes at the next beginning."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lavra.core.disk.locks import exclusive
from lavra.core.disk.scratch import scratch_folder

_KILLED = """
import os, signal
from lavra.core.disk.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_gone_and_what_a_living_one_uses_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert subprocess.run([sys.executable, "-c", _KILLED], check=False).returncode == -9
    (tmp_path / "photographs").mkdir()
    elsewhere = tmp_path / "lavra-scratch-99999999-x"  # no process of that number here: of another container
    elsewhere.mkdir()
    with exclusive(elsewhere / ".lock", "x"), scratch_folder() as one, scratch_folder() as other:
        assert {path.name for path in tmp_path.iterdir()} == {"photographs", elsewhere.name, one.name, other.name}
    with scratch_folder() as one:
        assert {path.name for path in tmp_path.iterdir()} == {"photographs", one.name}
    assert {path.name for path in tmp_path.iterdir()} == {"photographs"}

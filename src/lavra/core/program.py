"""The command line by which lavra was started, so that the commands it recommends work as they stand."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def command(*words: object) -> str:
    """Return a command of lavra as a person can paste it: `lavra runs show 'runs/my book'`.

    Where `lavra` is not on the PATH (a virtual environment that is not activated), it is named by its file, or as
    `python -m lavra` by the interpreter that runs.
    """
    return " ".join([_program(), *(shlex.quote(str(word)) for word in words)])


def _program() -> str:
    beside = Path(sys.executable).with_name("lavra")
    found = shutil.which("lavra")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "lavra"
    return shlex.quote(str(beside)) if beside.is_file() else f"{shlex.quote(sys.executable)} -m lavra"

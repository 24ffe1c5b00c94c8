"""Temporary folders that are removed at the end of a block, or by the next process where theirs was killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lavra.core.disk.locks import exclusive, holder, lives

_PREFIX = "lavra-scratch-"
_LOCK = ".lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder among the system's temporary files; it is removed when the block ends.

    The folders of killed processes of this user are removed first. Those of running processes are kept, even of
    processes in another container that shares the temporary files, because these hold the lock in their folder.
    """
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        with exclusive(folder / _LOCK, f"{folder} is in use"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove the scratch folders below `root` whose process has ended."""
    for folder in root.glob(f"{_PREFIX}*-*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            mine = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
        except OSError:
            continue  # another process is removing it
        if mine and number.isdecimal() and not lives(int(number)) and holder(folder / _LOCK) is None:
            shutil.rmtree(folder, ignore_errors=True)

"""Folders that appear whole or not at all: they are built beside their place, and renamed into it at the end.

What a killed process left of its work lies beside the target under a hidden name; the next command that makes the same
target removes it. Only one process at a time makes a target: it holds a lock beside it, which the system frees when the
process ends.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lavra.core.disk.files import sync_file, sync_folder
from lavra.core.disk.locks import exclusive
from lavra.core.disk.replacing import check_replaceable, write_mark

_BUILDING = "building-"


@contextmanager
def building_folder(
    path: Path,
    *,
    force: bool = False,
    ours: bool = False,
    inputs: Iterable[str | Path] = (),
    kind: str = "folder",
    later: Sequence[str] = (),
    remedy: str = "",
    request: str = "",
) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block succeeds, and vanishes when it fails.

    Args:
        path: The folder to make.
        force: Replace a folder that lavra made (see `core.disk.replacing`); without it, an existing folder is an error.
        ours: The place lies in a folder that lavra made and belongs to lavra, so that whatever is there is replaced.
        inputs: Files and folders that the command reads; a folder that holds one of these is never replaced.
        kind: What is made, such as "run", for the mark in the folder.
        later: Patterns of the files that lavra may write into the folder later (see `write_mark`).
        remedy: What the error tells the user to do where something is there and `force` is false; a sentence about
            `--force` by default.
        request: Fingerprint of everything that decides the folder's content (see `was_made_by`).

    Yields:
        The path of the temporary folder, to be filled.

    Raises:
        InputError: if `path` may not be replaced, or another process is making it.
    """
    inputs = list(inputs)
    check_replaceable(path, force=force, inputs=inputs, remedy=remedy, ours=ours)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{path.name}.lock"), f"{path} is being made", remove=True):
        remove_remains(path)
        check_replaceable(path, force=force, inputs=inputs, remedy=remedy, ours=ours)  # another may have made it
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
        try:
            yield temporary
            write_mark(temporary, kind, later, request)
            for file in temporary.rglob("*"):
                if file.is_file():
                    sync_file(file)
            os.chmod(temporary, 0o755)
            put_in_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def put_in_place(made: Path, path: Path) -> None:
    """Move the finished folder `made` to `path`; a folder that is there is exchanged atomically, then removed.

    Where the system cannot exchange two names, the old folder waits beside under a hidden name for a moment, and
    `remove_remains` brings it back if the process is killed just then.
    """
    if not path.exists():
        os.replace(made, path)
        sync_folder(path.parent)
        return
    if not _exchange(made, path):
        old = made.with_name(made.name + "-old")
        os.replace(path, old)
        os.replace(made, path)
        made = old
    sync_folder(path.parent)
    shutil.rmtree(made)


def remove_remains(path: Path) -> None:
    """Remove what killed processes left when they were making `path`.

    Call it only while no other process can be making `path`, that is, while its lock is held.
    """
    for remains in path.parent.iterdir():
        if remains.name.startswith(_prefix(path)) and remains.is_dir() and not remains.is_symlink():
            if remains.name.endswith("-old") and not path.exists():
                os.replace(remains, path)  # killed between taking the old folder away and putting the new one there
            else:
                shutil.rmtree(remains)


def _prefix(path: Path) -> str:
    return f".{path.name}.{_BUILDING}"


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders atomically, so that each name always has a whole folder.

    Returns:
        False where the system has no such call, or it failed; then nothing was changed.
    """
    import ctypes

    names = (os.fsencode(one), os.fsencode(other))
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return library.renamex_np(*names, 2) == 0  # RENAME_SWAP
        return library.renameat2(-100, names[0], -100, names[1], 2) == 0  # AT_FDCWD, RENAME_EXCHANGE
    except (OSError, AttributeError, TypeError):
        return False

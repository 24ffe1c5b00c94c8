"""Lock files that let one process at a time write to a folder, and that the system frees when the process ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError

# What `flock` raises on file systems without locks, such as some network file systems.
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@contextmanager
def exclusive(path: Path, purpose: str, *, remove: bool = False, wait: float = 0.5) -> Iterator[None]:
    """Hold the lock file `path` during the block.

    The kernel frees the lock when the process ends, however it ends; one that a dead process's orphan still holds is
    taken over. Where the file system has no locks, the process number in the file alone decides.

    Args:
        path: The lock file; its folder must exist.
        purpose: What is going on, for the message: "runs/demo is being trained".
        remove: Remove the lock file at the end, where it lies among the user's own files.
        wait: Seconds to wait for another process that holds the lock. The default is longer than `holder` holds it to
            look who has it.

    Raises:
        InputError: if another living process holds it; the message names that process.
    """
    descriptor = _take(path, purpose, wait)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)  # while it is held: whoever waits for it finds that its file is gone
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it with a forked child
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """Return the number of the living process that holds the lock file `path`, or None when it is free."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return _living(_record(descriptor)) if not _try(descriptor, shared=True) else None
    finally:
        os.close(descriptor)


def _take(path: Path, purpose: str, wait: float) -> int:
    deadline = time.monotonic() + wait
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if _try(descriptor):
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)  # its holder took the file away meanwhile: the lock of a file that nobody finds
            continue
        record = _record(descriptor)
        os.close(descriptor)
        owner = _living(record)
        if owner is None and record:
            path.unlink(missing_ok=True)  # held by an orphan of a dead process: a new file is a new lock
        elif time.monotonic() > deadline:
            raise InputError(
                f"{purpose} by process {owner or 'unknown'} already",
                "wait until it ends, or stop it; it saves when it is asked to stop",
            )
        else:
            time.sleep(0.02)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _try(descriptor: int, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return _living(_record(descriptor)) is None
        return False
    return True


def _record(descriptor: int) -> dict[str, Any]:
    try:
        return json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}


def _living(record: dict[str, Any]) -> int | None:
    """Return the process number in the record if that process lives (one on another machine is taken to live)."""
    number = record.get("pid")
    if number is None or record.get("host") != socket.gethostname():
        return number
    return number if lives(number) else None


def lives(number: int) -> bool:
    """Return whether a process with this number runs on this machine."""
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True

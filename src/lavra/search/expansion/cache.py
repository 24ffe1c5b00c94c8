"""What a model wrote, kept by content: the same passage, model, options and seed are never written twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lavra.core.disk.json_lines import one_line
from lavra.core.errors import Damaged, InputError, LavraError

_AT_ONCE = 500
"""Keys of one question to the database, which takes a thousand at most on old versions."""


def key_of_content(*parts: str | int) -> bytes:
    """Return 16 bytes that name these parts in this order.

    >>> key_of_content("a", 1) == key_of_content("a", 1), key_of_content("a", 1) == key_of_content("a1")
    (True, False)
    """
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


class ExpansionCache:
    """Values by key on disk, in one SQLite file; only what is asked for is in memory.

    What `put` was given is there for good when it returns, also after `kill -9`; what a killed process was in the
    middle of putting is wholly there or not at all. One process uses a cache at a time.

    Args:
        path: the file; made when there is none.

    Raises:
        InputError: if another process uses it.
        Damaged: if the file is no cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=0.5, isolation_level=None)
        try:
            # Held until the process ends or closes it. Changes reach the operating system before `put` returns, so a
            # kill loses nothing; the log is synced to disk now and then, so a power cut loses the last minutes at most.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS made (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID")
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._database.close()
            if "locked" in str(error):
                raise InputError(
                    f"{path} is being used by another process", "wait until it ends, or stop it"
                ) from error
            raise Damaged(f"{path} is no expansion cache: {error}", "delete it, or name another --cache") from error

    def __enter__(self) -> ExpansionCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM made").fetchone()[0])

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the values of those keys that are there."""
        found: dict[bytes, Any] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._database.execute(f"SELECT key, value FROM made WHERE key IN ({marks})", some)
            found.update((key, json.loads(value)) for key, value in rows)
        return found

    def put(self, values: Mapping[bytes, Any]) -> None:
        """Keep values, all or none; a key that is there already keeps its value.

        Raises:
            LavraError: if the file cannot be written, as on a full disk.
        """
        rows = [(key, one_line(value)) for key, value in values.items()]
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany("INSERT OR IGNORE INTO made VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise LavraError(
                    f"{self.path} could not be written: {error}; what it held before is safe",
                    "make room on that disk, or lift the limit on file sizes (ulimit -f); the same command goes on",
                ) from error
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

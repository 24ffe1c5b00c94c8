"""A cache by content: values by key in one SQLite file, so that nothing is computed twice or lost by `kill -9`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from lavra.core.disk.sqlite_errors import is_no_room
from lavra.core.errors import CorruptFile, InputError, LavraError

_AT_ONCE = 500
"""Keys of one query to the database; old versions of SQLite take at most a thousand."""

_WAIT_SECONDS = 60.0
"""Seconds to wait for another process that writes to a shared cache, and to one that is used alone."""
_WAIT_ALONE_SECONDS = 0.5


class ContentCache:
    """Texts or bytes by key in one SQLite file; only the values that are asked for are in memory.

    Values are safe when they are stored, also from `kill -9`; those of a call that was killed are in the file
    completely or not at all.

    Args:
        path: The file, which is made where there is none.
        table: Name of the table.
        what: What the file is, for messages.
        alone: Whether only one process can use the file at a time.

    Raises:
        InputError: If another process uses a file that only one can use.
        LavraError: If the disk is full.
        CorruptFile: If the file is not such a cache.
    """

    def __init__(self, path: Path, table: str, what: str, *, alone: bool) -> None:
        self.path, self._table = path, table
        path.parent.mkdir(parents=True, exist_ok=True)
        wait = _WAIT_ALONE_SECONDS if alone else _WAIT_SECONDS
        self._database = sqlite3.connect(path, timeout=wait, isolation_level=None)
        try:
            # Changes reach the operating system before a value counts as stored, so that a kill loses nothing. The
            # write-ahead log is synced to disk only now and then, so that a power cut may lose the last minutes.
            if alone:  # the lock is held until the process ends or closes the file
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
            )
            if alone:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._database.close()
            if alone and "locked" in str(error):
                raise InputError(
                    f"{path} is being used by another process", "wait until it ends, or stop it"
                ) from error
            if is_no_room(error):
                raise _no_room(path, error) from error
            raise CorruptFile(f"{path} is no {what}: {error}", "delete it, or name another --cache") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._database.execute(f"SELECT count(*) FROM {self._table}").fetchone()[0])

    def _stored(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the values of those keys that are in the cache, by key."""
        found: dict[bytes, Any] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            found.update(self._database.execute(f"SELECT key, value FROM {self._table} WHERE key IN ({marks})", some))
        return found

    def _store(self, values: Mapping[bytes, str | bytes]) -> None:
        """Store values, all of them or none; a key that is in the cache already keeps its value.

        Raises:
            LavraError: If the file cannot be written, as on a full disk.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(f"INSERT OR IGNORE INTO {self._table} VALUES (?, ?)", list(values.items()))
            self._database.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise _no_room(self.path, error) from error
            raise

    def close(self) -> None:
        """Close the file and release its lock."""
        self._database.close()


def _no_room(path: Path, error: sqlite3.Error) -> LavraError:
    return LavraError(
        f"{path} could not be written: {error}; what it held before is safe",
        "make room on that disk, or lift the limit on file sizes (ulimit -f); the same command goes on",
    )

"""The cache of generated queries by content: the same passage, model, options and seed are never computed twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lavra.core.disk.json_lines import one_line
from lavra.core.disk.sqlite_errors import is_no_room
from lavra.core.errors import CorruptFile, InputError, LavraError

_AT_ONCE = 500
"""Keys of one query to the database; old versions of SQLite take at most a thousand."""


def key_of_content(*parts: str | int) -> bytes:
    """Return a 128-bit hash of some values in their order.

    Args:
        parts: Strings and whole numbers.

    Returns:
        16 bytes.

    >>> key_of_content("a", 1) == key_of_content("a", 1), key_of_content("a", 1) == key_of_content("a1")
    (True, False)
    """
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


class ExpansionCache:
    """Values by key in one SQLite file; only the values that are asked for are in memory.

    Values are safe when `put` returns, also from `kill -9`; those of a `put` that was killed are in the file completely
    or not at all. Only one process can use a cache at a time.

    Args:
        path: The file, which is made where there is none.

    Raises:
        InputError: If another process uses the cache.
        LavraError: If the disk is full.
        CorruptFile: If the file is not a cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=0.5, isolation_level=None)
        try:
            # The lock is held until the process ends or closes the file. Changes reach the operating system before
            # `put` returns, so that a kill loses nothing. The write-ahead log is synced to disk only now and then, so
            # that a power cut may lose the last minutes.
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
            if is_no_room(error):
                raise _no_room(path, error) from error
            raise CorruptFile(f"{path} is no expansion cache: {error}", "delete it, or name another --cache") from error

    def __enter__(self) -> ExpansionCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM made").fetchone()[0])

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the values of those keys that are in the cache, by key.

        Args:
            keys: Keys of `key_of_content`.
        """
        found: dict[bytes, Any] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._database.execute(f"SELECT key, value FROM made WHERE key IN ({marks})", some)
            found.update((key, json.loads(value)) for key, value in rows)
        return found

    def put(self, values: Mapping[bytes, Any]) -> None:
        """Store values, all of them or none; a key that is in the cache already keeps its value.

        Args:
            values: Plain values by key.

        Raises:
            LavraError: If the file cannot be written, as on a full disk.
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

"""The cache of vectors by content: the same text is never read twice by the same encoder.

It is also what makes embedding resumable: what was stored is safe from `kill -9`, and the same request goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from lavra.core.disk.sqlite_errors import is_no_room
from lavra.core.errors import CorruptFile, LavraError

_AT_ONCE = 500
"""Keys of one query to the database; old versions of SQLite take at most a thousand."""

_WAIT_SECONDS = 60.0
"""Seconds to wait for another process that writes to the cache."""


def key_of(text: str, encoder: str) -> bytes:
    """Return a 128-bit hash of a text as an encoder reads it.

    Args:
        text: The text.
        encoder: Names everything else on which the vector depends: the encoder, its precision, the kind of text.

    Examples:
        >>> key_of("a", "b") == key_of("a", "b"), key_of("a", "bc") == key_of("ca", "b")
        (True, False)
    """
    return xxhash.xxh3_128(f"{len(encoder)} {encoder}{text}".encode("utf8", "surrogatepass")).digest()


class VectorCache:
    """Vectors by key in one SQLite file, which several processes may use.

    Vectors are safe when `put` returns, also from `kill -9`; those of a `put` that was killed are in the file
    completely or not at all.

    Args:
        path: The file, which is made where there is none.

    Raises:
        LavraError: If the disk is full.
        CorruptFile: If the file is not a cache.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, VectorCache(Path(folder) / "cache") as cache:
        ...     cache.put({key_of("rio", "e"): np.ones(2, np.float32)})
        ...     {key.hex()[:4]: vector.tolist() for key, vector in cache.get([key_of("rio", "e")]).items()}
        {'0083': [1.0, 1.0]}
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            # Changes reach the operating system before `put` returns, so that a kill loses nothing. The write-ahead log
            # is synced to disk only now and then, so that a power cut may lose the last minutes.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            if is_no_room(error):
                raise _no_room(path, error) from error
            raise CorruptFile(
                f"{path} is no cache of vectors: {error}", "delete it, or name another --cache"
            ) from error

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors of those keys that are in the cache, by key.

        Args:
            keys: Keys of `key_of`.
        """
        found: dict[bytes, NDArray[np.float32]] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._database.execute(f"SELECT key, value FROM vectors WHERE key IN ({marks})", some)
            found.update((key, np.frombuffer(value, np.float32)) for key, value in rows)
        return found

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store vectors, all of them or none; a key that is in the cache already keeps its vector.

        Args:
            vectors: Vectors by key, (dimensions,) float32 each.

        Raises:
            LavraError: If the file cannot be written, as on a full disk.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            rows = ((key, vector.tobytes()) for key, vector in vectors.items())
            self._database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise _no_room(self.path, error) from error
            raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _no_room(path: Path, error: sqlite3.Error) -> LavraError:
    return LavraError(
        f"{path} could not be written: {error}; what it held before is safe",
        "make room on that disk, or lift the limit on file sizes (ulimit -f); the same command goes on",
    )

"""What SQLite says when a file cannot grow."""

from __future__ import annotations

import sqlite3

_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""Primary error codes of a full disk, and of a file at the limit of file sizes."""


def is_no_room(error: sqlite3.Error) -> bool:
    """Return whether an error means that the file could not grow.

    Args:
        error: Error that SQLite raised.

    Examples:
        >>> is_no_room(sqlite3.OperationalError("made by hand, without a code"))
        False
    """
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _NO_ROOM

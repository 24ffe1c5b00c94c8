"""What is kept between runs on this machine: files of entries by key in a folder of the user's cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import CorruptFile


def cache_folder() -> Path:
    """Return the folder where what is compiled and what is known about it is kept between runs and reboots."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "lavra"


def read_entries(name: str) -> dict[str, Any]:
    """Return the entries of a file of the cache by key; none where there is no such file, or it is damaged.

    Args:
        name: Name of the file.
    """
    try:
        found = read_json(cache_folder() / name)
    except (CorruptFile, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def keep_entry(name: str, key: str, entry: Any, *, most: int | None = None) -> None:
    """Keep an entry for later runs. A cache that cannot be written costs them some seconds, and nothing else.

    Args:
        name: Name of the file.
        key: Key of the entry.
        entry: The entry as JSON values.
        most: Number of the latest entries that are kept beside it; None for all.
    """
    kept = list(read_entries(name).items())
    try:
        write_json(cache_folder() / name, dict(kept if most is None else kept[-most:]) | {key: entry})
    except OSError:
        return

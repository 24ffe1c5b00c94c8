"""The cache of generated queries by content: the same passage, model, options and seed are never computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavra.core.disk.content_cache import ContentCache
from lavra.core.disk.json_lines import one_line


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


class ExpansionCache(ContentCache):
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
        super().__init__(path, "made", "expansion cache", alone=True)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the values of those keys that are in the cache, by key.

        Args:
            keys: Keys of `key_of_content`.
        """
        return {key: json.loads(value) for key, value in self._stored(keys).items()}

    def put(self, values: Mapping[bytes, Any]) -> None:
        """Store values, all of them or none; a key that is in the cache already keeps its value.

        Args:
            values: Plain values by key.

        Raises:
            LavraError: If the file cannot be written, as on a full disk.
        """
        self._store({key: one_line(value) for key, value in values.items()})

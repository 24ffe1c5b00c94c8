"""The cache of vectors by content: the same text is never read twice by the same encoder.

It is also what makes embedding resumable: what was stored is safe from `kill -9`, and the same request goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from lavra.core.disk.content_cache import ContentCache


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


class VectorCache(ContentCache):
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
        super().__init__(path, "vectors", "cache of vectors", alone=False)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors of those keys that are in the cache, by key.

        Args:
            keys: Keys of `key_of`.
        """
        return {key: np.frombuffer(value, np.float32) for key, value in self._stored(keys).items()}

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store vectors, all of them or none; a key that is in the cache already keeps its vector.

        Args:
            vectors: Vectors by key, (dimensions,) float32 each.

        Raises:
            LavraError: If the file cannot be written, as on a full disk.
        """
        self._store({key: vector.tobytes() for key, vector in vectors.items()})

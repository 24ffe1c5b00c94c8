"""The forms in which vectors are stored: float16, int8 with a scale for each vector, and signs with int8 beside.

A vector is stored by itself, without figures of the others (a scale for each vector, not for each dimension), so that
an index that was brought up to date holds the same bytes as one made from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import CorruptFile
from lavra.search.index.dense.settings import Store
from lavra.text.term_counts import Whole, mapped, release

Floats = NDArray[np.float32]

PARTS: dict[Store, tuple[str, ...]] = {
    "float16": ("vectors",),
    "int8": ("vectors", "scales"),
    "binary": ("vectors", "scales", "bits"),
}
"""The files of each form, without `.npy`."""

_AT_ONCE = 8192
"""Vectors that are multiplied at once; as float32 of 384 dimensions they take 12 MB."""

_KEPT = 100_000
"""Most float16 vectors that are kept as float32 too; of 384 dimensions they take 154 MB."""

_LARGEST = 127.0
"""The largest number of an int8 vector."""


def stored(vectors: Floats, store: Store) -> dict[str, NDArray[Any]]:
    """Return vectors in the form in which they are stored.

    Args:
        vectors: (n, dimensions) float32 vectors.
        store: The form. "float16" takes 2 bytes a dimension; "int8" one, and 4 for the scale, so that the vector is
            `scales * vectors`; "binary" holds the signs too, as bits, by which the candidates are found.

    Returns:
        The arrays by the names in `PARTS`: `vectors` (n, dimensions) float16 or int8; `scales` (n,) float32; `bits`
        (n, bytes) uint8, the signs packed as `numpy.packbits` does, with zeros to a multiple of eight bytes.

    Examples:
        >>> parts = stored(np.array([[0.6, -0.8]], dtype=np.float32), "binary")
        >>> parts["vectors"].tolist(), parts["bits"][0].tolist()
        ([[95, -127]], [128, 0, 0, 0, 0, 0, 0, 0])
    """
    if store == "float16":
        return {"vectors": vectors.astype(np.float16)}
    scales = np.abs(vectors).max(axis=1, initial=0.0) / np.float32(_LARGEST)
    scales[scales == 0] = 1.0
    whole = np.rint(vectors / scales[:, None]).astype(np.int8)
    parts = {"vectors": whole, "scales": scales.astype(np.float32)}
    return parts if store == "int8" else {**parts, "bits": signs(vectors)}


def signs(vectors: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the signs of vectors as bits, (n, bytes) uint8; see `stored`."""
    packed = np.packbits(vectors > 0, axis=1)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))


class StoredVectors:
    """Vectors that are read from disk by memory map.

    Args:
        folder: The folder with the files that `PARTS` names.
        store: The form.

    Attributes:
        parts: The arrays by name.

    Raises:
        CorruptFile: If the files do not hold equally many vectors.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.parts: dict[str, NDArray[Any]] = {name: mapped(folder / f"{name}.npy") for name in PARTS[store]}
        if len({len(part) for part in self.parts.values()}) != 1:
            raise CorruptFile(f"the files in {folder} hold different numbers of vectors")

    def __len__(self) -> int:
        return len(self.parts["vectors"])

    @property
    def bytes(self) -> int:
        """Size of all parts in bytes."""
        return sum(part.nbytes for part in self.parts.values())

    def release(self) -> None:
        """Give the memory of the mapped parts back to the system; they stay readable."""
        release(*self.parts.values())

    def rows(self, chosen: Whole | slice) -> Floats:
        """Return some of the vectors as float32, (chosen, dimensions)."""
        values = self.parts["vectors"][chosen].astype(np.float32)
        if "scales" in self.parts:
            values *= self.parts["scales"][chosen][:, None]
        return values

    def products(self, queries: Floats) -> Floats:
        """Return the inner products of all vectors with each query, block by block.

        Args:
            queries: (queries, dimensions) float32 vectors.

        Returns:
            (queries, vectors) float32 products.
        """
        if self._floats is not None:
            return queries @ self._floats.T
        found = np.empty((len(queries), len(self)), dtype=np.float32)
        for place in self._blocks():
            block = self.parts["vectors"][place].astype(np.float32)
            products = queries @ block.T
            if "scales" in self.parts:  # scaling the products is as good as scaling the vectors, and there are fewer
                products *= self.parts["scales"][place]
            found[:, place] = products
        return found

    @cached_property
    def _floats(self) -> Floats | None:
        """Few float16 vectors as float32, kept after the first query: NumPy takes ten times longer to convert them than
        to multiply them. None for many, and for int8, which is converted quickly."""
        if "scales" in self.parts or len(self) > _KEPT:
            return None
        return self.parts["vectors"].astype(np.float32)

    def distances(self, query: Floats) -> NDArray[np.int32]:
        """Return the number of signs in which each vector differs from a query, (vectors,) int32; of binary ones only.

        Args:
            query: (dimensions,) float32 vector.
        """
        bits = self.parts["bits"].view(np.uint64)
        wanted = signs(query[None]).view(np.uint64)[0]
        found = np.empty(len(self), dtype=np.int32)
        for place in self._blocks():
            found[place] = np.bitwise_count(bits[place] ^ wanted).sum(axis=1, dtype=np.int32)
        return found

    def _blocks(self) -> Iterator[slice]:
        return (slice(first, min(first + _AT_ONCE, len(self))) for first in range(0, len(self), _AT_ONCE))


def positions_of(wanted: NDArray[np.uint64], known: NDArray[np.uint64]) -> Whole:
    """Return where each of some 128-bit keys is among others.

    Args:
        wanted: (n, 2) uint64 keys.
        known: (m, 2) uint64 keys.

    Returns:
        (n,) a row of `known` with the same key, -1 where there is none.

    Examples:
        >>> known = np.array([[7, 1], [5, 0], [7, 2]], dtype=np.uint64)
        >>> positions_of(np.array([[7, 2], [5, 1]], dtype=np.uint64), known).tolist()
        [2, -1]
    """
    found = np.full(len(wanted), -1, dtype=np.int64)
    if not len(known):
        return found
    order = np.argsort(known[:, 0], kind="stable")
    first = known[order, 0]
    places = first.searchsorted(wanted[:, 0])
    open_rows = np.arange(len(wanted))
    while len(open_rows):  # once, but where two keys have the same first half
        inside = places[open_rows] < len(first)
        open_rows = open_rows[inside]
        rows = order[places[open_rows]]
        alike = known[rows, 0] == wanted[open_rows, 0]
        open_rows, rows = open_rows[alike], rows[alike]
        same = known[rows, 1] == wanted[open_rows, 1]
        found[open_rows[same]] = rows[same]
        open_rows = open_rows[~same]
        places[open_rows] += 1
    return found

"""A graph over many vectors (HNSW), by which the nearest ones are found without comparing all; usearch keeps it.

The graph holds the vectors as int8, whatever the index stores: it only proposes candidates, whose similarity is then
computed from the stored vectors. A text is known to it by the first half of the 64-bit key of its content, which stays
the same when the index is brought up to date: texts that are gone are taken out and new ones put in.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import CorruptFile, LavraError
from lavra.core.progress import track
from lavra.search.index.dense.stores import Floats, StoredVectors, stored
from lavra.text.term_counts import Whole, mapped, ranges

GRAPH = "graph.usearch"
"""Name of the file of the graph."""

_ORDER = "graph-order.npy"

_NEIGHBOURS = 16
"""Neighbours of a vector in the graph (M); twice as many in the lowest layer."""

_WIDTH_BUILDING = 128
"""Candidates that are kept while a vector is put in (efConstruction)."""

_WIDTH_SEARCHING = 192
"""Candidates that are kept while a query is answered (ef), or as many as are asked for where that is more."""

_MOST_REMOVED = 0.2
"""Share of the vectors of a graph that may be taken out of it; beyond, it is built anew, because gaps make it worse."""

_AT_ONCE = 50_000


def build_graph(folder: Path, keys: NDArray[np.uint64], vectors: StoredVectors, old: Path | None = None) -> None:
    """Write the graph of some vectors into a folder.

    Args:
        folder: The folder.
        keys: (vectors, 2) uint64 keys of the contents.
        vectors: The stored vectors.
        old: A folder with the graph of an earlier state, which is changed where that is less work; None for none.
    """
    order = np.argsort(keys[:, 0], kind="stable")
    labels, first = np.unique(keys[order, 0], return_index=True)
    rows = order[first]
    graph = _earlier(old, labels) if old is not None else None
    if graph is None:
        graph = _empty(vectors.parts["vectors"].shape[1])
    held = _labels(graph)
    for label in np.setdiff1d(held, labels, assume_unique=True).tolist():
        graph.remove(label)
    new = ~np.isin(labels, held, assume_unique=True)
    labels, rows = labels[new], rows[new]
    blocks = range(0, len(labels), _AT_ONCE)
    for start in track(blocks, "building the graph", len(blocks), "blocks"):
        place = slice(start, start + _AT_ONCE)
        chosen = np.sort(rows[place])  # in the order of the disk
        graph.add(keys[chosen, 0], stored(vectors.rows(chosen), "int8")["vectors"])
        vectors.release()
    graph.save(str(folder / GRAPH))
    np.save(folder / _ORDER, order.astype(np.int32 if len(order) < 2**31 else np.int64))


class Graph:
    """A graph that is read from disk by memory map.

    Args:
        folder: The folder in which `build_graph` wrote it.
        keys: (vectors, 2) uint64 keys of the contents.
    """

    def __init__(self, folder: Path, keys: NDArray[np.uint64]) -> None:
        self._file = np.memmap(folder / GRAPH, mode="r")  # mapped now: an update may remove the file
        self._path = folder / GRAPH
        self._order = mapped(folder / _ORDER)
        self._keys = keys

    @property
    def bytes(self) -> int:
        """Size of the graph in bytes."""
        return self._file.nbytes

    def candidates(self, query: Floats, count: int) -> Whole:
        """Return the rows of about `count` vectors that are near a query, ascending.

        Args:
            query: (dimensions,) float32 vector.
            count: Number of contents; each may be that of several rows.
        """
        whole = stored(query[None], "int8")["vectors"][0]
        self._graph.expansion_search = max(_WIDTH_SEARCHING, count)
        found = self._graph.search(whole, min(count, len(self._graph)), threads=1)
        labels = np.asarray(found.keys, dtype=np.uint64)
        first, last = (self._sorted.searchsorted(labels, side=side) for side in ("left", "right"))
        return np.sort(self._order[ranges(first, last)].astype(np.int64))

    @cached_property
    def _sorted(self) -> NDArray[np.uint64]:
        return self._keys[self._order, 0]

    @cached_property
    def _graph(self) -> Any:
        found = _usearch().Index.restore(self._file, view=True, enable_key_lookups=False)
        if found is None:
            raise CorruptFile(f"{self._path} is damaged", "make the index again with --force")
        return found


def _empty(dimensions: int) -> Any:
    return _usearch().Index(
        ndim=dimensions,
        metric="cos",
        dtype="i8",
        connectivity=_NEIGHBOURS,
        expansion_add=_WIDTH_BUILDING,
        expansion_search=_WIDTH_SEARCHING,
    )


def _earlier(folder: Path, labels: NDArray[np.uint64]) -> Any:
    """Return the graph of an earlier state where most of its vectors are still wanted; else None."""
    if not (folder / GRAPH).is_file():
        return None
    graph = _usearch().Index.restore(str(folder / GRAPH), view=False)
    if graph is None:
        return None
    held = _labels(graph)
    gone = len(held) - int(np.isin(held, labels, assume_unique=True).sum())
    return graph if gone <= _MOST_REMOVED * len(held) else None


def _labels(graph: Any) -> NDArray[np.uint64]:
    return np.asarray(graph.keys[:], dtype=np.uint64)


def _usearch() -> Any:
    try:
        from usearch import index
    except ModuleNotFoundError as error:
        raise LavraError(
            "searching by a graph needs usearch", "pip install 'lavra[dense]', or give --dense.method exact"
        ) from error
    return index

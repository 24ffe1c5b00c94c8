"""The vectors that are searched: one for each unit (document or chunk) of an index, in the order of the units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.files import read_json, write_json
from lavra.core.progress import log
from lavra.search.index.dense.graph import GRAPH, Graph, build_graph
from lavra.search.index.dense.settings import DenseSettings
from lavra.search.index.dense.stores import PARTS, Floats, StoredVectors, positions_of
from lavra.search.index.postings import best
from lavra.text.term_counts import Whole, mapped, new_array, ranges

ABOUT = "dense.json"
"""Name of the file with the settings of the vectors."""

_KEYS = "keys.npy"

_BY_SIGNS = 10
"""Candidates that are found by signs for each wanted document; the best by the inner product are kept."""

_BY_GRAPH = 100
"""Candidates that are found by the graph beyond those that are wanted: its vectors are rounded."""

_SPREAD = 0.01
"""By how much the length of a vector may differ from 1 in a graph, which compares by the cosine."""


@dataclass(frozen=True)
class Near:
    """The documents that are nearest to a query.

    Attributes:
        numbers: (found,) numbers of the documents, best first.
        similarities: (found,) float32 similarity of each: that of its nearest unit.
        units: (found,) the nearest unit of each, counted from its first one.
    """

    numbers: Whole
    similarities: Floats
    units: Whole


class DenseSnapshot:
    """The vectors of an index, read from disk by memory map.

    Args:
        folder: The folder in which `build_vectors` wrote them.
        ranks: (documents,) rank of each document in the order that breaks ties.
        units: (documents + 1,) first unit of each document; None where every document is one.

    Attributes:
        settings: The settings of the vectors.
        keys: (units, 2) uint64 128-bit hash of the text of each unit.
    """

    def __init__(self, folder: Path, ranks: NDArray[np.int32], units: Whole | None) -> None:
        self.folder = folder
        self.settings = DenseSettings(**read_json(folder / ABOUT))
        self.keys: NDArray[np.uint64] = mapped(folder / _KEYS)
        self.vectors = StoredVectors(folder, self.settings.store)
        self._graph = Graph(folder, self.keys) if (folder / GRAPH).is_file() else None
        self._ranks, self._units = ranks, units

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def bytes(self) -> int:
        """Size of vectors and graph in bytes."""
        return self.vectors.bytes + (self._graph.bytes if self._graph else 0)

    @property
    def method(self) -> str:
        """How the vectors are searched: "exact", "signs" or "hnsw"."""
        return "hnsw" if self._graph else "signs" if self.settings.store == "binary" else "exact"

    def search(self, query: Floats, top_k: int, *, exact: bool = False) -> Near:
        """Return the documents with the highest similarity to a query.

        Args:
            query: (dimensions,) float32 vector of the query.
            top_k: Most documents to return.
            exact: Whether every stored vector is compared, whatever the settings say.
        """
        if not len(self):
            nothing = np.zeros(0, dtype=np.int64)
            return Near(nothing, np.zeros(0, dtype=np.float32), nothing)
        if exact or self.method == "exact":
            return self._among(np.arange(len(self)), self.vectors.products(query[None])[0], top_k)
        chosen = self._candidates(query, top_k)
        return self._among(chosen, self.vectors.rows(chosen) @ query, top_k)

    def similarities(self, query: Floats, documents: Whole) -> tuple[Floats, Whole]:
        """Return the similarity of some documents to a query, and the nearest unit of each.

        Args:
            query: (dimensions,) float32 vector of the query.
            documents: (documents,) numbers of documents.
        """
        if self._units is None:
            return self.vectors.rows(documents) @ query, np.zeros(len(documents), dtype=np.int64)
        units = ranges(self._units[documents], self._units[documents + 1])
        found = self._among(units, self.vectors.rows(units) @ query, len(documents))
        places = {number: place for place, number in enumerate(found.numbers.tolist())}
        order = [places[number] for number in documents.tolist()]
        return found.similarities[order], found.units[order]

    def _candidates(self, query: Floats, top_k: int) -> Whole:
        """Return the units among which the nearest documents are sought, ascending."""
        per_document = 1.0 if self._units is None else len(self) / (len(self._units) - 1)
        wanted = int(np.ceil(top_k * per_document))
        if self._graph is not None:
            return self._graph.candidates(query, wanted + _BY_GRAPH)
        wanted = min(len(self), wanted * _BY_SIGNS)
        distances = self.vectors.distances(query)
        farthest = np.partition(distances, wanted - 1)[wanted - 1]
        return np.flatnonzero(distances <= farthest)

    def _among(self, units: Whole, similarities: Floats, top_k: int) -> Near:
        """Return the best documents among some of their units, which are ascending."""
        if self._units is None:
            chosen = best(similarities, self._ranks[units], top_k, zero_matches=True)
            return Near(units[chosen], similarities[chosen], np.zeros(len(chosen), dtype=np.int64))
        owners = self._units.searchsorted(units, side="right") - 1
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))
        numbers = owners[firsts]
        most = np.maximum.reduceat(similarities, firsts)
        chosen = best(most, self._ranks[numbers], top_k, zero_matches=True)
        ends = np.append(firsts[1:], len(units))
        nearest = [first + int(similarities[first:end].argmax()) for first, end in _pairs(firsts, ends, chosen)]
        places = units[np.array(nearest, dtype=np.int64)] if nearest else np.zeros(0, dtype=np.int64)
        return Near(numbers[chosen], most[chosen], places - self._units[numbers[chosen]])


def _pairs(firsts: Whole, ends: Whole, chosen: Whole) -> list[tuple[int, int]]:
    return list(zip(firsts[chosen].tolist(), ends[chosen].tolist(), strict=True))


def build_vectors(
    folder: Path, keys: NDArray[np.uint64], sources: Sequence[Path], settings: DenseSettings, old: Path | None = None
) -> None:
    """Write the vectors of all units into an empty folder, one source after the other.

    Args:
        folder: The folder, which gets the files of `PARTS`, `keys.npy`, `dense.json` and, where a graph is searched,
            that of the graph.
        keys: (units, 2) uint64 keys of the units, in their order; the sources must have them all.
        sources: Folders with vectors and their `keys.npy`.
        settings: The settings.
        old: The folder of an earlier state, whose graph may be changed; None for none.
    """
    known = [np.load(source / _KEYS) for source in sources]
    sizes = np.cumsum([0, *map(len, known)])
    places = positions_of(keys, np.concatenate([np.zeros((0, 2), dtype=np.uint64), *known]))
    assert (places >= 0).all(), "a unit has no vector"
    made: dict[str, NDArray] = {}
    for source, first, last in zip(sources, sizes[:-1], sizes[1:], strict=True):
        rows = np.flatnonzero((places >= first) & (places < last))
        if not len(rows):
            continue
        held = StoredVectors(source, settings.store)
        for name, part in held.parts.items():
            if name not in made:
                made[name] = new_array(folder / f"{name}.npy", part.dtype, (len(keys), *part.shape[1:]))
            made[name][rows] = part[places[rows] - first]
        held.release()
    for name in PARTS[settings.store]:
        if name not in made:  # no unit at all
            np.save(folder / f"{name}.npy", np.zeros((0, settings.dimensions), dtype=np.float16))
    np.save(folder / _KEYS, keys)
    write_json(folder / ABOUT, settings.to_json())
    if settings.has_graph(len(keys)):
        vectors = StoredVectors(folder, settings.store)
        if _of_length_one(vectors):
            build_graph(folder, keys, vectors, old)
        else:
            log("the vectors have other lengths than 1, for which there is no graph: they are searched exactly")


def _of_length_one(vectors: StoredVectors, sample: int = 10_000) -> bool:
    """Return whether some of the vectors, evenly spaced, have the length 1."""
    chosen = np.arange(0, len(vectors), max(1, len(vectors) // sample))
    return bool((np.abs(np.linalg.norm(vectors.rows(chosen), axis=1) - 1) <= _SPREAD).all())

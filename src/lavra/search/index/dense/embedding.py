"""Embedding the texts of an index that have no vector yet, some at a time: what is written stays, also after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json
from lavra.core.errors import InputError
from lavra.core.progress import Progress
from lavra.core.units import counted
from lavra.search.index.dense.settings import DenseSettings
from lavra.search.index.dense.stores import positions_of, stored
from lavra.search.index.dense.vectors import ABOUT, build_vectors
from lavra.search.index.manifest import Manifest
from lavra.search.index.segments import Segment
from lavra.text.term_counts import Whole, ranges
from lavra.vectors.protocols import TextEncoder

BATCH = 1024
"""Texts that are embedded and written at once; a kill loses the work on so many at most."""


@dataclass
class Vectorizer:
    """What makes the vectors of an index.

    Attributes:
        settings: The settings of the vectors.
        open_encoder: Opens the encoder of the settings; called only where a text has no vector yet.
        embedded: Number of texts that were embedded.
        longer: Number of those with more words than the encoder reads tokens, whose ends it leaves out for certain.
        longest: Most tokens that the encoder reads; None where it has no limit or was not needed.
    """

    settings: DenseSettings
    open_encoder: Callable[[], TextEncoder]
    embedded: int = field(default=0, init=False)
    longer: int = field(default=0, init=False)
    longest: int | None = field(default=None, init=False)

    def warnings(self) -> list[str]:
        """Return a warning where texts were longer than what the encoder reads."""
        if not self.longer:
            return []
        verb = "has" if self.longer == 1 else "have"
        return [
            f"warning: {counted(self.longer, 'text')} of {self.embedded:,} {verb} more words than the {self.longest} "
            "tokens that the encoder reads, so that the ends have no part in the vectors; chunks are short enough: "
            f"--chunk-words {max(1, self.longest // 2 if self.longest else 1)}"
        ]


def unit_keys(segments: Sequence[Segment], rows: Sequence[Whole]) -> NDArray[np.uint64]:
    """Return the keys of the texts of all units, (units, 2), in the order of the units.

    Args:
        segments: The segments of the index.
        rows: The current rows of each segment.
    """
    pairs = zip(segments, rows, strict=True)
    keys = [one.unit_keys[ranges(one.units[some], one.units[some + 1])] for one, some in pairs]
    return np.concatenate([np.zeros((0, 2), dtype=np.uint64), *keys])


def continues(manifest: Manifest, settings: DenseSettings, folder: Path) -> bool:
    """Return whether the vectors of an index can be used with other settings; refuse them where they are searched.

    Args:
        manifest: The manifest of the index, which has vectors.
        settings: The settings that are wanted.
        folder: The folder of the index, for the message.

    Raises:
        InputError: If the index is searched by vectors of another model, or in another form.
    """
    held = DenseSettings(**(manifest.dense_settings or {}))
    same = (held.fingerprint, held.store) == (settings.fingerprint, settings.store)
    if not same and manifest.dense:
        held.check_model(settings.fingerprint, settings.model, folder)
        raise InputError(
            f"the vectors of {folder} are stored as {held.store}, not as {settings.store}",
            f"give --dense.store {held.store}, or make the index again with --force",
        )
    return same


def embed_missing(
    folder: Path, manifest: Manifest, segments: Sequence[Segment], rows: Sequence[Whole], vectorizer: Vectorizer
) -> None:
    """Embed the texts of an index that have no vector yet, each text once.

    Batches are named in the manifest as soon as they are written, so that a killed update does not embed them again.

    Args:
        folder: The folder of the index.
        manifest: Its manifest, which is written after each batch; its segments are those on disk.
        segments: The segments of the index.
        rows: The current rows of each segment.
        vectorizer: What makes the vectors.
    """
    keys = unit_keys(segments, rows)
    known = [np.load(folder / name / "keys.npy") for name in _sources(manifest)]
    missing = np.flatnonzero(positions_of(keys, np.concatenate([np.zeros((0, 2), np.uint64), *known])) < 0)
    if not len(missing):
        return
    _, first = np.unique(np.ascontiguousarray(keys[missing]).view("V16").ravel(), return_index=True)
    missing = missing[np.sort(first)]
    encoder = vectorizer.open_encoder()
    vectorizer.settings.check_model(encoder.fingerprint, "the encoder that was opened", folder)
    vectorizer.longest = encoder.longest
    texts = _texts(segments, rows, missing)
    with Progress("embedding", len(missing), "texts") as progress:
        for start in range(0, len(missing), BATCH):
            some = missing[start : start + BATCH]
            batch = [next(texts) for _ in some]
            vectors = _checked(encoder.encode(batch, kind="passage"), len(batch), vectorizer.settings)
            name = manifest.new_name("vectors")
            with building_folder(folder / name, ours=True) as building:
                for part, values in stored(vectors, vectorizer.settings.store).items():
                    np.save(building / f"{part}.npy", values)
                np.save(building / "keys.npy", keys[some])
            manifest.vectors.append(name)
            manifest.write(folder)
            vectorizer.embedded += len(batch)
            if encoder.longest:
                vectorizer.longer += sum(len(text.split()) > encoder.longest for text in batch)
            progress.advance(len(batch))


def write_vectors(folder: Path, manifest: Manifest, keys: NDArray[np.uint64], settings: DenseSettings) -> str:
    """Write the vectors of all units, which were all embedded before.

    Args:
        folder: The folder of the index.
        manifest: Its manifest.
        keys: (units, 2) uint64 keys of the units, in their order.
        settings: The settings of the vectors.

    Returns:
        The name of the folder of the vectors: a new one, or that of the manifest where nothing has changed.
    """
    if manifest.dense:
        about = folder / manifest.dense
        if read_json(about / ABOUT) == settings.to_json() and np.array_equal(np.load(about / "keys.npy"), keys):
            return manifest.dense
    name = manifest.new_name("dense")
    old = folder / manifest.dense if manifest.dense else None
    with building_folder(folder / name, ours=True) as building:
        build_vectors(building, keys, [folder / source for source in _sources(manifest)], settings, old)
    return name


def _sources(manifest: Manifest) -> list[str]:
    """Return the folders that hold vectors of the model of a manifest."""
    return [name for name in (manifest.dense, *manifest.vectors) if name]


def _texts(segments: Sequence[Segment], rows: Sequence[Whole], wanted: Whole) -> Iterator[str]:
    """Yield the texts of some units, given by their ascending numbers."""
    first = 0  # number of the first unit of a segment
    for segment, some in zip(segments, rows, strict=True):
        ends = first + np.cumsum(segment.units[some + 1] - segment.units[some])
        last = int(ends[-1]) if len(ends) else first
        inside = wanted[(wanted >= first) & (wanted < last)]
        owners = ends.searchsorted(inside, side="right")
        held, contents, chunks = -1, "", list[tuple[int, int]]()
        for unit, owner in zip(inside.tolist(), owners.tolist(), strict=True):
            if owner != held:
                held = owner
                document, chunks = segment.document(int(some[owner]))
                contents = document.contents
            start, end = chunks[unit - int(ends[owner]) + len(chunks)]
            yield contents[start:end]
        segment.release()
        first = last


def _checked(vectors: NDArray[np.float32], count: int, settings: DenseSettings) -> NDArray[np.float32]:
    """Refuse vectors of another shape than that of the settings, or that are not finite."""
    if vectors.shape != (count, settings.dimensions):
        raise InputError(
            f"{settings.model} made vectors of the shape {vectors.shape}, not {(count, settings.dimensions)}",
            "make the index again with --force",
        )
    bad = int((~np.isfinite(vectors)).any(axis=1).sum())
    if bad:
        raise InputError(
            f"{settings.model} made vectors that are not finite of {counted(bad, 'text')}",
            "use another model, or --device cpu",
        )
    return np.asarray(vectors, dtype=np.float32)

"""Vectors for the texts of files, in a file of vectors: resumable, and every text read once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.config.vectors import EmbedConfig
from lavra.core.errors import InputError, Interrupted
from lavra.core.progress import Progress, log, quiet
from lavra.core.units import counted, show_duration
from lavra.data.readers.documents import is_repeatable, read_rows
from lavra.data.readers.lines import ID_FIELDS, optional_field, warning_lines
from lavra.data.readers.rows import BadRows, SourceDocument
from lavra.training.signals import StopRequest
from lavra.vectors.cache import VectorCache, key_of
from lavra.vectors.encoder import NetworkEncoder
from lavra.vectors.files import (
    Manifest,
    Vectors,
    VectorWriter,
    check_new,
    hash_of,
    new_vectors,
    read_manifest,
    read_vectors,
    refuse_other_encoder,
)
from lavra.vectors.protocols import TextEncoder, TextKind
from lavra.vectors.reading import Prompts
from lavra.workflows.embeddings.open_encoder import open_encoder

REPEATED_ID = "id given twice, of which the first text is kept"
"""Kind of bad row."""

_BLOCK_TEXTS = 1024
_BLOCK_CHARACTERS = 256 * 1024
"""Texts, and characters, of a block: the texts that are sorted by length together, and stored together. What a block
holds depends on the data and on what was in the cache when the block began, and on nothing else, so that a killed
command that is given again computes the same batches, to the last bit."""

_COPIED_ROWS = 16384
"""Rows that are copied at once from a file that is extended."""


def embed(
    model: str,
    texts: Sequence[str],
    *,
    kind: TextKind = "text",
    dimensions: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    prompts: Prompts | None = None,
) -> NDArray[np.float32]:
    """Return the vectors of texts.

    Args:
        model: The location of the model: a run, a checkpoint, a model folder, a folder of sentence-transformers, a
            Hugging Face folder or a hub name.
        texts: The texts.
        kind: What they are: "query" or "passage" for search, "text" for texts that are compared with their like. A
            model that was trained with prompts puts another one before each.
        dimensions: Number of the first numbers of a vector that are kept; None keeps what the model says.
        device: Device that computes: auto, cpu, cuda, cuda:1 or mps.
        precision: Type of the weights: auto, fp32, bf16 or fp16.
        prompts: What is put before the texts of each kind, in place of the model's own prompts.

    Returns:
        (texts, dimensions) float32 vectors of length 1, in the order of the texts; their inner products are cosines.

    Raises:
        InputError: If there is no such model, or it makes no vectors.

    Examples:
        >>> import lavra
        >>> vectors = lavra.embed("runs/encoder", ["a boat", "a ship"])   # doctest: +SKIP
        >>> float(vectors[0] @ vectors[1])                                # doctest: +SKIP
        0.83
    """
    encoder = open_encoder(model, device=device, precision=precision, dimensions=dimensions, prompts=prompts)
    vectors = encoder.encode(texts, kind=kind)
    say_cut(encoder)
    return vectors


@dataclass
class EmbedReport:
    """What `embed_files` did.

    Attributes:
        out: The file of vectors.
        cache: The cache of vectors.
        model: Location of the model.
        encoder: Fingerprint of the encoder.
        kind: What the texts are.
        precision: Type of the weights.
        dimensions: Size of a vector.
        rows: Number of vectors in the file.
        computed: Number of different texts whose vectors were computed now.
        reused: Number of different texts whose vectors were in the cache.
        repeated: Number of rows whose text stood in an earlier row.
        added: Number of rows of the data that are new in the file.
        replaced: Number of rows of an extended file whose text has changed.
        kept: Number of rows of the data that an extended file held already.
        seconds: Seconds of computing.
        warnings: Warnings about the data.
    """

    out: str
    cache: str
    model: str
    encoder: str = ""
    kind: str = "text"
    precision: str = "fp32"
    dimensions: int = 0
    rows: int = 0
    computed: int = 0
    reused: int = 0
    repeated: int = 0
    added: int = 0
    replaced: int = 0
    kept: int = 0
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(vars(self))


def embed_files(config: EmbedConfig) -> EmbedReport:
    """Embed the texts of files, and write a file of vectors in their order.

    It may be interrupted or killed at any time: the vectors that were made are in the cache, and the same request ends
    with the same bytes as one that was never stopped. A text that occurs again, or that the cache holds, is not read
    again.

    Args:
        config: The request.

    Returns:
        What was done.

    Raises:
        InputError: If the data or the model cannot be used, something is at `out` already, or the file that is to be
            extended holds vectors of another model.
        Interrupted: After a signal to stop; everything that was made is in the cache.
    """
    out = Path(config.out)
    inputs = [*config.data, config.model]
    check_new(out, force=config.force or config.extend, inputs=inputs)
    found = read_manifest(out) if config.extend and out.exists() else None
    prompts: Prompts | None = None if config.prompt is None else {config.kind: config.prompt}
    encoder = open_encoder(
        config.model,
        device=config.device,
        precision=config.precision,
        dimensions=config.dimensions if found is None else config.dimensions or found.dimensions,
        prompts=prompts,
    )
    if found is not None:
        refuse_other_encoder(out, found, encoder.fingerprint, config.model, config.kind)
    cache = Path(config.cache) if config.cache else out.with_name(out.name + ".cache")
    report = EmbedReport(str(out), str(cache), config.model, encoder.fingerprint, config.kind)
    report.precision, report.dimensions = getattr(encoder, "precision", "fp32"), encoder.dimensions
    bad_rows = BadRows(policy=config.text.on_bad_row)
    out.parent.mkdir(parents=True, exist_ok=True)
    with VectorCache(cache) as kept, StopRequest("finishing this block of texts and keeping it") as stop:
        maker = _Maker(encoder, config, kept, report, stop)
        if found is None:
            with new_vectors(out, encoder.dimensions, force=config.force, inputs=inputs) as writer:
                for block in maker.blocks(_rows(config, bad_rows)):
                    writer.add(block.ids, block.hashes, block.vectors)
                report.added = writer.rows
                _finish(writer, encoder, config, report)
        else:
            _extend(out, maker, _rows(config, bad_rows), inputs)
    report.warnings = warning_lines(bad_rows)
    for line in report.warnings:
        log(line)
    say_cut(encoder)
    return report


def summary(report: EmbedReport) -> str:
    """Return what was done, in a sentence.

    Args:
        report: What `embed_files` returned.
    """
    speed = f", {report.computed / report.seconds:,.0f} texts/s" if report.seconds and report.computed else ""
    parts = [
        f"{counted(report.computed, 'text')} computed in {show_duration(report.seconds)}{speed} ({report.precision})"
    ]
    parts += [f"{report.reused:,} from the cache"] if report.reused else []
    parts += [f"{report.repeated:,} the same as an earlier text"] if report.repeated else []
    parts += [f"{report.kept:,} were there already"] if report.kept else []
    parts += [f"{report.replaced:,} replaced, because their text has changed"] if report.replaced else []
    return f"{report.out}: {counted(report.rows, 'vector')} of {report.dimensions:,} dimensions; {'; '.join(parts)}"


@dataclass(frozen=True)
class _Row:
    """A text with its id, and whether the id is its own."""

    id: str
    text: str
    own: bool


@dataclass(frozen=True)
class _Block:
    """Rows with their vectors."""

    ids: list[str]
    hashes: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    own: bool


@dataclass
class _Maker:
    """Makes the vectors of rows, block by block."""

    encoder: TextEncoder
    config: EmbedConfig
    cache: VectorCache
    report: EmbedReport
    stop: StopRequest
    known: dict[str, int] = field(default_factory=dict)
    """Hash of the text of each row that needs no vector, by its id."""
    _seen: set[bytes] = field(default_factory=set)

    def blocks(self, rows: Iterator[_Row]) -> Iterator[_Block]:
        """Yield the rows with their vectors, and show the progress.

        Raises:
            Interrupted: After a signal to stop.
        """
        total = _count(self.config)
        with Progress("embedding", total, "texts") as progress:
            done = 0
            for some in _divided(rows):
                fresh = [row for row in some if self.known.get(row.id) != hash_of(row.text)]
                self.report.kept += len(some) - len(fresh)
                yield self._block(fresh)
                done += len(some)
                if self.report.computed:
                    progress.update(done)
                else:  # nothing was computed so far, which does not measure the speed
                    progress.start_from(done)
                if self.stop.requested:
                    raise Interrupted(
                        f"stopped; the vectors of {counted(len(self.cache), 'text')} are in {self.cache.path}",
                        "give the same command to continue",
                        signal_number=self.stop.requested,
                    )

    def _block(self, rows: Sequence[_Row]) -> _Block:
        keys = [key_of(row.text, self._name) for row in rows]
        texts = dict(zip(keys, (row.text for row in rows), strict=True))
        vectors = self.cache.get(list(texts))
        missing = [key for key in texts if key not in vectors]
        new = [key for key in texts if key not in self._seen]
        self.report.repeated += len(rows) - len(new)
        self.report.reused += len(new) - len(missing)
        self.report.computed += len(missing)
        self._seen.update(new)
        if missing:
            began = time.monotonic()
            made = self.encoder.encode([texts[key] for key in missing], kind=self.config.kind)
            self.report.seconds += time.monotonic() - began
            vectors |= dict(zip(missing, made, strict=True))
            self.cache.put({key: vectors[key] for key in missing})
        found = np.stack([vectors[key] for key in keys]) if keys else np.empty((0, self.encoder.dimensions), np.float32)
        hashes = np.array([hash_of(row.text) for row in rows], np.uint64)
        return _Block([row.id for row in rows], hashes, found, all(row.own for row in rows))

    @property
    def _name(self) -> str:
        """Names everything on which a vector depends besides the text. The precision changes its last digits."""
        return f"{self.encoder.fingerprint} {self.config.kind} {self.report.precision}"


def _rows(config: EmbedConfig, bad_rows: BadRows) -> Iterator[_Row]:
    """Yield the texts with their ids; the id of a row without one is the place where it stands."""
    seen: set[str] = set()
    for row in _read(config, bad_rows):
        own = optional_field(row.fields, ID_FIELDS)
        if own in seen:
            bad_rows.add(REPEATED_ID, row.place, repr(own))
            continue
        name, number = own or row.place, 1
        while name in seen:  # files of one name in several folders
            number += 1
            name = f"{row.place} ({number})"
        seen.add(name)
        yield _Row(name, row.text, bool(own))


def _read(config: EmbedConfig, bad_rows: BadRows) -> Iterator[SourceDocument]:
    return read_rows(
        config.data,
        text_column=config.text.column,
        on_bad_row=config.text.on_bad_row,
        encoding=config.text.encoding,
        wanted=ID_FIELDS,
        bad_rows=bad_rows,
    )


def _count(config: EmbedConfig) -> int | None:
    """Return the number of texts; None for data that can be read only once."""
    if not all(is_repeatable(location) for location in config.data):
        return None
    with quiet():
        return sum(1 for _ in _read(config, BadRows(policy=config.text.on_bad_row)))


def _divided(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    """Yield the rows in blocks."""
    block: list[_Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row.text)
        if len(block) >= _BLOCK_TEXTS or size >= _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _extend(out: Path, maker: _Maker, rows: Iterator[_Row], inputs: Sequence[str]) -> None:
    """Add the vectors of new rows to a file, and replace those of rows whose text has changed."""
    report, before = maker.report, read_vectors(out)
    places = {name: number for number, name in enumerate(before.ids)}
    maker.known = {name: int(before.hashes[number]) for name, number in places.items()}
    blocks = list(maker.blocks(rows))
    if not all(block.own for block in blocks):
        raise InputError(
            f"the data have no ids, by which rows of {out} could be told from new ones",
            f"give every row a field {' or '.join(map(repr, ID_FIELDS))}",
        )
    changed = {
        places[name]: (block.hashes[row], block.vectors[row])
        for block in blocks
        for row, name in enumerate(block.ids)
        if name in places
    }
    report.replaced = len(changed)
    report.added = sum(len(block.ids) for block in blocks) - len(changed)
    with new_vectors(out, maker.encoder.dimensions, force=True, inputs=inputs) as writer:
        _copy(before, changed, writer)
        for block in blocks:
            new = [row for row, name in enumerate(block.ids) if name not in places]
            writer.add([block.ids[row] for row in new], block.hashes[new], block.vectors[new])
        _finish(writer, maker.encoder, maker.config, report)


def _copy(before: Vectors, changed: dict[int, tuple[Any, Any]], writer: VectorWriter) -> None:
    for start in range(0, len(before), _COPIED_ROWS):
        stop = min(start + _COPIED_ROWS, len(before))
        hashes, matrix = before.hashes[start:stop].copy(), np.array(before.matrix[start:stop])
        for number in range(start, stop):
            if number in changed:
                hashes[number - start], matrix[number - start] = changed[number]
        writer.add(before.ids[start:stop], hashes, matrix)


def _finish(writer: VectorWriter, encoder: TextEncoder, config: EmbedConfig, report: EmbedReport) -> None:
    report.rows = writer.rows
    prompts: Prompts = (
        encoder.reading.prompts if isinstance(encoder, NetworkEncoder) else getattr(encoder, "prompts", {})
    )
    writer.finish(
        Manifest(
            encoder=encoder.fingerprint,
            model=config.model,
            kind=config.kind,
            prompt=prompts.get(config.kind, ""),
            dimensions=encoder.dimensions,
            rows=writer.rows,
            normalised=bool(getattr(encoder, "normalise", True)),
            precision=report.precision,
        )
    )


def say_cut(encoder: TextEncoder) -> None:
    """Say how much of long texts was left out.

    Args:
        encoder: What has made the vectors.
    """
    if isinstance(encoder, NetworkEncoder) and encoder.reading.cut.cut:
        log(encoder.reading.cut.summary(encoder.reading.longest))

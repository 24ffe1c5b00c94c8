"""Prepares text for training: reads it, splits it, trains a tokenizer and encodes it, once for any number of runs.

There are two passes over the data: the first counts it for the split and samples it for the tokenizer, the second
encodes it. Data that can be read only once (standard input, a hub dataset) or slowly (docstrings) is kept in a
temporary file between them, the row cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import InputError
from lavra.core.progress import Progress, log
from lavra.core.units import counted
from lavra.data.readers.compressed import BytesRead, open_binary
from lavra.data.readers.documents import files_of, is_repeatable, read_rows
from lavra.data.readers.locations import find_files
from lavra.data.readers.rows import OVERLAP, SPELLED_END, UNKNOWN_TOKEN, BadRows, OnBadRow, SourceDocument
from lavra.data.split import GivenValidation, Halves, Split, SplitCounter, cut_in_half
from lavra.data.token_store.manifest import Manifest
from lavra.data.token_store.store import TokenStore
from lavra.data.token_store.writer import StoreWriter
from lavra.data.tokenizers.for_encoders import for_encoder
from lavra.data.tokenizers.report import CorpusSample, TokenizerReport
from lavra.data.tokenizers.streaming import prefetch
from lavra.data.tokenizers.tokenizer import ENCODER_TOKENS, Tokenizer, choose_vocabulary_size

# The row cache between the two passes.


def write_row_cache(rows: Iterable[SourceDocument], path: Path) -> Iterator[SourceDocument]:
    """Yield the rows while writing each without its other columns to a `.zst` file, from which `read_row_cache`
    reads."""
    import zstandard

    with zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(level=1)) as file:
        for row in rows:
            file.write(json.dumps([row.text, row.source, row.place, row.is_validation]).encode() + b"\n")
            yield row


def read_row_cache(path: Path) -> Iterator[SourceDocument]:
    """Yield the rows that `write_row_cache` wrote to `path`, without their other columns."""
    with open_binary(path) as lines:
        for line in lines:
            text, source, place, validation_set = json.loads(line)
            yield SourceDocument(text, source, place, is_validation=validation_set)


# The parts of the folder that is made.
TRAIN = "train"
VALIDATION = "validation"
HELD_OUT = "held_out"
"""Half of the validation data, in a store of its own, where this was asked for."""
TOKENIZER = "tokenizer"
REPORT = "report.json"

VALIDATION_LIMIT = 10_000_000
"""Largest number of bytes of validation data by default, which keeps an evaluation quick on a large corpus."""

_BATCH = 4 << 20  # characters encoded at once


@dataclass(frozen=True)
class Prepared:
    """Text that is ready for training: the folder that `prepare` makes.

    Attributes:
        folder: Path of the folder.
        train: Token store of the training data.
        validation: Token store of the validation data; its `texts()` are the originals.
    """

    folder: Path
    train: TokenStore
    validation: TokenStore

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of both stores."""
        return self.train.tokenizer

    @cached_property
    def report(self) -> dict[str, Any]:
        """The report on what was read, left out, split and tokenised, as `report.json` holds it."""
        return read_json(self.folder / REPORT)


def open_prepared(folder: str | Path) -> Prepared:
    """Return the prepared text in a folder that `prepare` made.

    Raises:
        InputError: if it is no such folder.
        CorruptFile: if a file is missing or cut short.
    """
    folder = Path(folder)
    if not (folder / TRAIN).is_dir() or not (folder / VALIDATION).is_dir():
        raise InputError(f"{folder} holds no prepared text", "make it with `lavra prepare DATA --out FOLDER`")
    return Prepared(folder, TokenStore.open(folder / TRAIN), TokenStore.open(folder / VALIDATION))


def prepare(
    locations: Sequence[str],
    out: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    complete: Callable[[Tokenizer], Tokenizer] | None = None,
    vocabulary_size: int | Callable[[int], int] | None = None,
    validation_share: float = 0.05,
    validation_limit: int = VALIDATION_LIMIT,
    text_column: str = "text",
    on_bad_row: OnBadRow = "skip",
    normalize: bool = False,
    encoding: str | None = None,
    validation: Sequence[str] = (),
    encoder: bool = False,
    held_out: bool = False,
    bos: bool = False,
    seed: int = 0,
    force: bool = False,
) -> Prepared:
    """Read text, split it into training and validation data, and write token stores of both.

    Args:
        locations: Files, folders, globs and other locations, see `lavra.data.readers.documents`.
        out: The folder to make, with `train/`, `validation/`, `tokenizer/` and `report.json`. It appears whole or not
            at all.
        tokenizer: Tokenizer to encode with; by default a byte-level BPE is trained on a sample of the text.
        complete: Function that adds special tokens to the tokenizer, given or trained; None adds none.
        vocabulary_size: Vocabulary size of that BPE: a number, or a function of the bytes of the text; by default
            `choose_vocabulary_size`.
        validation_share: Share of the bytes that becomes validation data, see `lavra.data.split`; 0.05 by default.
        validation_limit: Largest number of bytes of validation data; 10 MB by default.
        text_column: Column that holds the text, in formats with columns; "text" by default.
        on_bad_row: Leave bad rows out ("skip", the default), stop at them ("error"), or also at whatever is left out,
            guessed or replaced ("strict").
        normalize: Bring text to Unicode's normal form C.
        encoding: Encoding of the files without a byte order mark; UTF-8, else Windows-1252, by default.
        validation: Locations of the validation data, instead of a share. Without it, files whose names say that they
            are validation data are used as such; test files beside training files are never trained on.
        encoder: Give the vocabulary the tokens that an encoder needs, see `lavra.data.tokenizers.for_encoders`. A new
            vocabulary has as many tokens all the same.
        held_out: Keep half of the validation documents apart in a store `held_out/`, so that what is chosen by the
            others can be measured on them; see `lavra.data.split.Halves`. There is no such store where there is one
            validation document only, and it cannot be cut.
        bos: Put before every document the token that the tokenizer's own post-processor puts before a text
            ([CLS] for BERT), where there is one, because encoders need it.
        seed: Seed of the sample for the tokenizer; the split does not depend on it.
        force: Replace an existing folder.

    Returns:
        The prepared text, opened.

    Raises:
        InputError: if the folder exists, if there is no text or too little to split it, or for a bad row under "error".

    Examples:
        >>> prepared = prepare(["poems/"], "prepared", vocabulary_size=4096)  # doctest: +SKIP
        >>> len(prepared.train), prepared.tokenizer.vocabulary_size  # doctest: +SKIP
        (1203, 4096)
    """
    with building_folder(Path(out), force=force, inputs=locations, kind="prepared text") as building:
        text = _Text(locations, building / "rows.zst", text_column, on_bad_row, normalize, encoding, validation)
        counter, sample = SplitCounter(validation_share, validation_limit), CorpusSample(seed=seed)
        given = GivenValidation()
        for row in text.first_pass():
            if row.is_validation:
                given.add(row.text.encode())
            elif not counter.add(row.text.encode()) and tokenizer is None:
                sample.add(row.text)
        if text.bad_rows.summary():
            log(text.bad_rows.summary())
        if tokenizer is None:
            texts = sample if len(sample) else text.again()
            tokenizer = _trained(vocabulary_size, texts, counter.bytes, len(ENCODER_TOKENS) if encoder else 0)
        tokenizer = for_encoder(tokenizer) if encoder else tokenizer
        if complete is not None:
            tokenizer = complete(tokenizer)
        tokenizer.save(building / TOKENIZER)
        split = counter.train_on_all() if given.documents else counter.decide()
        writing = _Writing(building, tokenizer, split, _put_before(tokenizer) if bos else None, held_out=held_out)
        spelled = tokenizer.spellings_left_out
        manifests = writing.write(text.again(), counter, given, text.bad_rows)
        text.forget()
        fit = writing.tokenizer_report(manifests.values())
        _tell_of_tokens(text.bad_rows, fit, tokenizer.spellings_left_out - spelled, str(out))
        report = {
            "data": list(locations),
            **text.bad_rows.report(),
            "bytes": counter.bytes + given.bytes,
            "normalize": normalize,
            "encoding": encoding,
            "validation_data": list(validation),
            "seed": seed,
            "split": {
                **writing.split.to_json(),
                "validation_given": given.documents > 0,
                **{side: _sizes(manifest) for side, manifest in manifests.items()},
            },
            "tokenizer": fit.to_json(),
        }
        write_json(building / REPORT, report)
        log(fit.summary())
    return open_prepared(out)


def _trained(
    vocabulary_size: int | Callable[[int], int] | None,
    texts: Iterable[SourceDocument] | CorpusSample,
    corpus_bytes: int,
    reserved: int,
) -> Tokenizer:
    """Return a new tokenizer, with room in the vocabulary for a number of tokens that are added to it."""
    if vocabulary_size is None:
        vocabulary_size = choose_vocabulary_size
    size = vocabulary_size(corpus_bytes) if callable(vocabulary_size) else vocabulary_size
    log(f"training a tokenizer of {size} tokens")
    rows = (text for text in texts if isinstance(text, str) or not text.is_validation)
    return Tokenizer.train((text if isinstance(text, str) else text.text for text in rows), size - reserved)


def _tell_of_tokens(bad_rows: BadRows, fit: TokenizerReport, spelled: int, place: str) -> None:
    """Count and print what the tokenizer replaced and left out.

    Args:
        bad_rows: Counts it.
        fit: Report on the tokenizer.
        spelled: Number of spellings of the end-of-document token that were left out.
        place: Name of the prepared folder, for messages.
    """
    unknown = round(fit.unknown_rate * fit.tokens)
    for kind, count in ((UNKNOWN_TOKEN, unknown), (SPELLED_END, spelled)):
        if count:
            bad_rows.change(kind, place, f"{count:,} of {fit.tokens:,} tokens")
            log(bad_rows.told(kind))


def _put_before(tokenizer: Tokenizer) -> int | None:
    """Return the one id that an encoder reads before a text, or None where it reads none or several."""
    before, _ = tokenizer.around_source
    return before[0] if len(before) == 1 else None


def _sizes(manifest: Manifest) -> dict[str, Any]:
    names = ("documents", "tokens", "bytes", "characters", "words")
    return {name: getattr(manifest, name) for name in names}


@dataclass
class _Text:
    """The rows of some locations, which are read twice."""

    locations: Sequence[str]
    row_cache: Path
    text_column: str
    on_bad_row: OnBadRow
    normalize: bool
    encoding: str | None
    validation: Sequence[str]
    bad_rows: BadRows = field(default_factory=BadRows)

    def first_pass(self) -> Iterator[SourceDocument]:
        """Yield the rows, count the bad ones in `bad_rows`, and cache the rows where reading again is not cheap."""
        counter = BytesRead()
        rows = self._read(self.bad_rows, counter)
        if not all(is_repeatable(location) for location in self.locations):
            rows = write_row_cache(rows, self.row_cache)
        files = [location for location in self.locations if is_repeatable(location)]
        total = sum(file.size for file in files_of(find_files(files), self.validation).files) if files else None
        with Progress("reading", total, "bytes" if files else "documents") as progress:
            for row in rows:
                yield row
                progress.update(counter.done if files else self.bad_rows.rows)

    def again(self) -> Iterator[SourceDocument]:
        """Yield the rows a second time."""
        return read_row_cache(self.row_cache) if self.row_cache.exists() else self._read(BadRows(), BytesRead())

    def forget(self) -> None:
        """Remove the row cache."""
        self.row_cache.unlink(missing_ok=True)

    def _read(self, bad_rows: BadRows, counter: BytesRead) -> Iterator[SourceDocument]:
        return read_rows(
            self.locations,
            text_column=self.text_column,
            on_bad_row=self.on_bad_row,
            normalize=self.normalize,
            encoding=self.encoding,
            validation=self.validation,
            wanted=(),
            bad_rows=bad_rows,
            counter=counter,
        )


class _Writing:
    """The second pass: rows are split, encoded while the next ones are read, and written to two stores."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, split: Split, begin: int | None, *, held_out: bool = False
    ) -> None:
        self.folder, self.tokenizer, self.split, self.begin = folder, tokenizer, split, begin
        self.halves = Halves() if held_out else None
        self.counts = np.zeros(tokenizer.vocabulary_size, np.int64)

    def write(
        self, rows: Iterable[SourceDocument], expected: SplitCounter, given: GivenValidation, bad_rows: BadRows
    ) -> dict[str, Manifest]:
        """Write both stores.

        Args:
            rows: The rows, read the second time.
            expected: Counts of the training rows in the first pass; other counts now mean that the data has changed.
            given: The validation documents that the user named.
            bad_rows: Counts the training rows that are also among these.

        Returns:
            The manifests of the stores by side, "train", "validation" and, where there is one, "held_out".
        """
        seen, seen_given = SplitCounter(expected.share, expected.limit), GivenValidation()
        total = expected.bytes + given.bytes
        with ExitStack() as stack, Progress("tokenising", total, "bytes") as progress:
            writers = {side: stack.enter_context(self._writer(side)) for side in (TRAIN, VALIDATION)}
            for batch, arrays in prefetch(
                _batches(self._divided(_told(rows, given, bad_rows), seen, seen_given)), self._encode
            ):
                for (side, source, text), ids in zip(batch, arrays, strict=True):
                    if side not in writers:
                        writers[side] = stack.enter_context(self._writer(side))
                    writers[side].add(source, text, ids)
                # Once for many documents: each count goes through the whole vocabulary.
                self.counts += np.bincount(np.concatenate(arrays), minlength=len(self.counts))
                progress.update(sum(writer.text_bytes for writer in writers.values()))
            found = (seen.documents, seen.bytes, seen_given.documents, seen_given.bytes)
            if found != (expected.documents, expected.bytes, given.documents, given.bytes):
                raise InputError("the data changed while it was being read", "try again when nothing writes to it")
            if not writers[TRAIN].documents or not writers[VALIDATION].documents:
                raise InputError(
                    f"{counted(total, 'byte')} of text cannot be split into training and validation data",
                    "give more text",
                )
        return {side: writer.manifest for side, writer in writers.items()}

    def _writer(self, side: str) -> StoreWriter:
        return StoreWriter(self.folder / side, self.tokenizer, keep_texts=side != TRAIN, begin=self.begin)

    def _divided(
        self, rows: Iterable[SourceDocument], seen: SplitCounter, seen_given: GivenValidation
    ) -> Iterator[tuple[str, str, str]]:
        for row in rows:
            if row.is_validation:
                seen_given.add(row.text.encode())
                yield self._validation_side(row.text), row.source, row.text
                continue
            seen.add(row.text.encode())
            head, tail = self.split.divide(row.text)
            if head:
                yield TRAIN, row.source, head
            if head and tail and self.halves is not None:  # the end of a large document, perhaps of the only one
                for side, text in zip((VALIDATION, HELD_OUT), cut_in_half(tail), strict=True):
                    if text:
                        yield side, row.source, text
            elif tail:
                yield self._validation_side(tail), row.source, tail

    def _validation_side(self, text: str) -> str:
        """Return the store of a validation document."""
        return HELD_OUT if self.halves is not None and self.halves.is_held_out(text.encode()) else VALIDATION

    def _encode(self, batch: list[tuple[str, str, str]]) -> list[np.ndarray]:
        return self.tokenizer.encode_many([text for _, _, text in batch])

    def tokenizer_report(self, manifests: Iterable[Manifest]) -> TokenizerReport:
        """Return the report on the tokenizer over everything that was written to the stores of these manifests."""
        manifests = list(manifests)
        words, size = sum(manifest.words for manifest in manifests), sum(manifest.bytes for manifest in manifests)
        return TokenizerReport.from_counts(self.tokenizer, self.counts, words=words, text_bytes=size)


def _told(rows: Iterable[SourceDocument], given: GivenValidation, bad_rows: BadRows) -> Iterator[SourceDocument]:
    """Yield the rows, and count and print the training rows that are also among the validation documents."""
    before = bad_rows.changes.get(OVERLAP, 0)
    for row in rows:
        if not row.is_validation and row.text.encode() in given:
            bad_rows.change(OVERLAP, row.place)
        yield row
    if bad_rows.changes.get(OVERLAP, 0) > before:
        log(bad_rows.told(OVERLAP))


def _batches(documents: Iterator[tuple[str, str, str]]) -> Iterator[list[tuple[str, str, str]]]:
    batch: list[tuple[str, str, str]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[2])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

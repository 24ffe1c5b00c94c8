"""Reads everything that a person can name as data as one stream of documents.

A location is a file, a folder (all levels, sorted), a glob, `-` (standard input), `hf:NAME[:SPLIT]` (a dataset of the
`datasets` library) or `installed-docs:` (the documentation of the Python packages installed on this machine).
Everything streams: memory does not grow with the data.

Examples:
    >>> from lavra.data.readers.documents import fault_of, read_rows
    >>> for row in read_rows(["poems/", "news.jsonl.gz"], text_column="body"):  # doctest: +SKIP
    ...     print(row.place, row.text)
    >>> fault_of("O mar."), fault_of("   ")
    (None, 'empty document')
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from lavra.core.errors import InputError
from lavra.core.network import why_no_hub
from lavra.core.progress import log
from lavra.data.readers.compressed import BytesRead, open_binary, open_member
from lavra.data.readers.delimited import read_delimited
from lavra.data.readers.encodings import as_utf8
from lavra.data.readers.html_files import html_charset
from lavra.data.readers.json_files import read_json
from lavra.data.readers.locations import DataFile, FoundFiles, find_files
from lavra.data.readers.rows import (
    BROKEN_UTF8,
    EMPTY,
    MISSING_COLUMN,
    NOT_TEXT,
    NUL,
    VALIDATION_FILE,
    BadRows,
    OnBadRow,
    SourceDocument,
)
from lavra.data.readers.split_names import assign_validation
from lavra.data.readers.tables import missing_column, read_jsonl, read_parquet
from lavra.data.readers.text_files import read_html_file, read_text_file

# The locations that are no files.
STANDARD_INPUT = "-"
INSTALLED_DOCS = "installed-docs:"
HUB = "hf:"


def read_rows(
    locations: Sequence[str],
    *,
    text_column: str | None = "text",
    on_bad_row: OnBadRow | None = None,
    normalize: bool = False,
    encoding: str | None = None,
    validation: Sequence[str] | None = None,
    wanted: Collection[str] | None = None,
    bad_rows: BadRows | None = None,
    counter: BytesRead | None = None,
) -> Iterator[SourceDocument]:
    """Yield the documents of `locations`, in order; the same locations give the same rows in the same order.

    Args:
        locations: Files, folders, globs and the other locations that this module describes.
        text_column: The column that holds the text, in formats with columns; "text" by default. None yields every row
            of such formats with an empty text and all columns in its `fields`, and refuses files of plain text.
        on_bad_row: "skip" counts a row that cannot be used and goes on; "error" stops at the first; "strict" also stops
            where a file is left out, or anything is guessed, replaced or cut. By default the policy of `bad_rows`,
            which is "skip" without it.
        normalize: Bring the text to Unicode's normal form C (é as one character, however it was written).
        encoding: Encoding of the files without a byte order mark; by default UTF-8, or Windows-1252 where the bytes are
            not UTF-8.
        validation: Locations of validation data, read after the others; their rows have `validation_set` set. With an
            empty sequence, files whose names say that they are validation data are read so, and test files are left
            out. With None, the default, names say nothing.
        wanted: Columns to read besides the text, where a format can leave others unread; None reads all.
        bad_rows: Is filled with what was left out. Without it, a summary is printed on standard error at the end.
        counter: Is advanced by the bytes read from disk, for progress.

    Yields:
        The documents; none has an empty text, unless `text_column` is None.

    Raises:
        InputError: for a missing path, an empty folder, a damaged file, a bad row under "error", or when the
            locations hold no document at all.
    """
    found = bad_rows if bad_rows is not None else BadRows()
    if on_bad_row is not None:
        found.policy = on_bad_row
    before = found.rows
    reading = _Reading(text_column, encoding, wanted, found, counter or BytesRead())
    for row in reading.rows(locations, validation):
        size = len(row.text) if row.text.isascii() else len(row.text.encode("utf8", "surrogatepass"))
        fault = fault_of(row.text) if text_column is not None else None
        if fault:
            found.add(fault, row.place, size=size)
            continue
        found.rows += 1
        found.bytes += size
        yield replace(row, text=unicodedata.normalize("NFC", row.text)) if normalize else row
    if found.rows == before:
        reason = found.summary()
        raise InputError(
            f"no document in {', '.join(locations)}" + (f"\n{reason}" if reason else ""),
            found.remedy() or "name data that holds text",
        )
    if bad_rows is None and found.summary():
        log(found.summary())


def is_repeatable(location: str) -> bool:
    """Return whether a location is cheap to read again, as files and folders are; pipes and hub datasets are not."""
    return location not in (STANDARD_INPUT, INSTALLED_DOCS) and not location.startswith(HUB)


def fault_of(text: str) -> str | None:
    """Return the kind of bad row that a text makes, such as "empty document", or None for a text that can be used."""
    if not text or text.isspace():
        return EMPTY
    if "\x00" in text:
        return NUL
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate: half a character in JSON, or an undecodable byte in CSV
            return BROKEN_UTF8
    return None


def files_of(found: FoundFiles, validation: Sequence[str] | None) -> FoundFiles:
    """Return the files in the order of reading: training data first, then validation data.

    Args:
        found: The files of the training data; files that their names set apart are left out in it.
        validation: Locations of the validation data, see `read_rows`.

    Raises:
        InputError: if both are the same files.
    """
    if validation is not None:
        assign_validation(found, validation=bool(validation))
    validation_set = find_files(validation) if validation else FoundFiles()
    named = {(file.path.resolve(), file.member) for file in validation_set.files}
    kept = [file for file in found.files if (file.path.resolve(), file.member) not in named]
    if found.files and not kept:
        raise InputError("the data to train on and the validation data are the same files", "name other files for one")
    kept.sort(key=lambda file: file.is_validation)
    files = [*kept, *(replace(file, is_validation=True) for file in validation_set.files)]
    return FoundFiles(files, {**validation_set.left_out, **found.left_out})


def _grouped(locations: Sequence[str]) -> Iterator[list[str]]:
    """Yield consecutive locations that are files, folders or globs together, so that files named twice are noticed.

    Every other location is yielded alone.
    """
    group: list[str] = []
    for location in locations:
        if is_repeatable(location):
            group.append(location)
            continue
        if group:
            yield group
        yield [location]
        group = []
    if group:
        yield group


class _Reading:
    """Reads locations with the options of one call of `read_rows`, and counts in `bad_rows` what it left out."""

    def __init__(
        self,
        text_column: str | None,
        encoding: str | None,
        wanted: Collection[str] | None,
        bad_rows: BadRows,
        counter: BytesRead,
    ) -> None:
        self.text_column, self.encoding, self.wanted = text_column, encoding, wanted
        self.bad_rows, self.counter = bad_rows, counter

    def rows(self, locations: Sequence[str], validation: Sequence[str] | None) -> Iterator[SourceDocument]:
        """Yield the rows of all locations, and then those of the validation data."""
        if not locations:
            raise InputError("no data is named", "name files, folders, globs, - or installed-docs:")
        named = tuple(validation or ())
        if named and not all(is_repeatable(location) for location in named):
            raise InputError("validation data can be files, folders and globs only", "save it to a file first")
        for names in _grouped(locations):
            if names[0] == STANDARD_INPUT:
                yield from self._standard_input()
            elif names[0] == INSTALLED_DOCS:
                from lavra.data.readers.installed_docs import read_installed_docs

                yield from read_installed_docs(bad_rows=self.bad_rows)
            elif names[0].startswith(HUB):
                yield from self._hub(names[0])
            else:
                yield from self._files(find_files(names), None if validation is None else named)
                named = ()
        if named:
            yield from self._files(FoundFiles(), named)

    def _files(self, found: FoundFiles, validation: Sequence[str] | None) -> Iterator[SourceDocument]:
        by_name = validation is not None and not validation
        files = files_of(found, validation)
        for reason, paths in files.left_out.items():
            for path in paths:
                self.bad_rows.leave_out(path, reason)
        for file in files.files:
            if file.is_validation and by_name:
                self.bad_rows.note(VALIDATION_FILE, file.name)
            yield from (replace(row, is_validation=True) if file.is_validation else row for row in self._file(file))

    def _file(self, file: DataFile) -> Iterator[SourceDocument]:
        if file.format == "parquet":
            with _on_disk(file, self.counter) as path:
                wanted, column = self.wanted, self.text_column
                rows = read_parquet(path, column, self.bad_rows, self.counter, wanted=wanted, name=file.name)
                yield from self._with_columns(rows, file.source, file.name)
            return
        opened = (
            open_member(file.path, file.member, self.counter) if file.member else open_binary(file.path, self.counter)
        )
        with opened as stream:
            yield from self._stream(stream, file.name, file.format, file.source)

    def _stream(self, stream: BinaryIO, name: str, kind: str, source: str) -> Iterator[SourceDocument]:
        text = kind in ("text", "html")
        if text and self.text_column is None:
            raise InputError(
                f"{name} is plain text, and rows with columns are needed", "give JSONL, JSON, CSV, TSV or Parquet"
            )
        encoding = self.encoding
        if kind == "html" and encoding is None:
            encoding = html_charset(stream.peek(1024)[:1024])  # pyright: ignore[reportAttributeAccessIssue]
        stream = as_utf8(stream, name, self.bad_rows, encoding)
        if text:
            read = read_text_file if kind == "text" else read_html_file
            yield from (SourceDocument(text, source, place) for text, place in read(stream, name, self.bad_rows))
        elif kind == "jsonl":
            yield from self._with_columns(read_jsonl(stream, name, self.bad_rows), source, name)
        elif kind == "json":
            yield from self._with_columns(read_json(stream, name, self.bad_rows), source, name)
        else:
            rows = read_delimited(stream, name, kind, self.text_column, self.bad_rows)
            yield from self._with_columns(rows, source, name)

    def _with_columns(
        self, rows: Iterable[tuple[Mapping[str, Any], str]], source: str, name: str
    ) -> Iterator[SourceDocument]:
        column, bad_rows = self.text_column, self.bad_rows
        for fields, place in rows:
            if column is None:
                yield SourceDocument("", source, place, fields, file=name)
                continue
            if column not in fields:
                size = sum(len(value) for value in fields.values() if isinstance(value, str))
                bad_rows.add(MISSING_COLUMN, place, missing_column(column, list(fields)), size=size)
                continue
            bad_rows.note_columns(name, (column,), fields)
            text = fields[column]
            if isinstance(text, bytes):
                text = text.decode("utf8", "surrogateescape")
            if text is None:
                bad_rows.add(EMPTY, place)
            elif not isinstance(text, str):
                bad_rows.add(NOT_TEXT, place, f"{column!r} holds a {type(text).__name__}", size=len(str(text)))
            else:
                others = {key: value for key, value in fields.items() if key != column}
                yield SourceDocument(text, source, place, others, file=name)

    def _standard_input(self) -> Iterator[SourceDocument]:
        """Yield the rows of standard input: JSON or JSONL when it begins with an object, else plain text."""
        stream = as_utf8(sys.stdin.buffer, "standard input", self.bad_rows, self.encoding)
        begins = stream.peek(1).lstrip().startswith(b"{")  # pyright: ignore[reportAttributeAccessIssue]
        kind = "json" if begins else "text"
        yield from self._stream(stream, "standard input", kind, "standard input")

    def _hub(self, location: str) -> Iterator[SourceDocument]:
        try:
            import datasets  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(f"{location} needs the datasets library", "pip install datasets") from error
        name, _, split = location.removeprefix(HUB).partition(":")
        reason = why_no_hub()
        if reason is not None:
            raise InputError(
                f"{location} is a dataset of the Hugging Face hub, which cannot be reached ({reason})",
                "connect to the network, or name files on this machine",
            )
        try:
            stream = datasets.load_dataset(name, split=split or "train", streaming=True)
        except Exception as error:  # the library raises many kinds; each means that this data cannot be had
            raise InputError(
                f"{location} cannot be opened: {error}", "check the name, the split and the network"
            ) from error
        rows = ((fields, f"{location}:{number}") for number, fields in enumerate(stream, start=1))
        yield from self._with_columns(rows, name, location)


@contextmanager
def _on_disk(file: DataFile, counter: BytesRead) -> Iterator[Path]:
    """Yield the path of a file on disk; a file in an archive is unpacked to a temporary file first."""
    if file.member is None:
        yield file.path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.parquet"
        with open_member(file.path, file.member, counter) as packed, path.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        yield path

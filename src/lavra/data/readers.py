"""Rows in: everything a person can name as data becomes one stream of documents.

A location is a file, a folder (all levels, sorted), a glob, `-` (standard input), `hf:NAME[:SPLIT]` (a dataset of the
`datasets` library) or `installed-docs:` (the documentation of the Python packages installed on this machine).
Everything streams: memory does not grow with the data.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from lavra.core.errors import InputError
from lavra.core.network import why_no_hub
from lavra.core.progress import say
from lavra.data.bad_rows import (
    BROKEN_UTF8,
    EMPTY,
    MISSING_COLUMN,
    NOT_TEXT,
    NUL,
    BadRows,
    OnBadRow,
)
from lavra.data.columns import missing_column, read_delimited, read_jsonl, read_parquet
from lavra.data.compressed import BytesRead, open_binary
from lavra.data.locations import DataFile, find_files
from lavra.data.rows import Row
from lavra.data.text_files import read_text_file

STANDARD_INPUT = "-"
INSTALLED_DOCS = "installed-docs:"
HUB = "hf:"


def read_rows(
    locations: Sequence[str],
    *,
    text_column: str | None = "text",
    on_bad_row: OnBadRow = "skip",
    normalize: bool = False,
    bad_rows: BadRows | None = None,
    counter: BytesRead | None = None,
) -> Iterator[Row]:
    """Yield the documents of `locations`, in order; the same locations give the same rows in the same order.

    Args:
        locations: what to read, see this module.
        text_column: the column that holds the text, in formats with columns; None yields every row of such formats
            with an empty text and all columns in its `fields`, and takes no files of plain text.
        on_bad_row: "skip" counts a row that cannot be used and goes on; "error" stops at the first.
        normalize: bring the text to Unicode normal form C (é as one character, however it was written).
        bad_rows: is filled with what was left out; without it, what was left out is said on standard error at the end.
        counter: is advanced by the bytes read from disk, for progress.

    Raises:
        InputError: for a missing path, an empty folder, a damaged file, a bad row under "error", or when the
            locations hold no document at all.
    """
    found = bad_rows if bad_rows is not None else BadRows()
    found.policy = on_bad_row
    before = found.rows
    for row in _all_rows(locations, text_column, found, counter or BytesRead()):
        fault = fault_of(row.text) if text_column is not None else None
        if fault:
            found.add(fault, row.place)
            continue
        found.rows += 1
        yield replace(row, text=unicodedata.normalize("NFC", row.text)) if normalize else row
    if found.rows == before:
        reason = found.summary()
        raise InputError(
            f"no document in {', '.join(locations)}" + (f"\n{reason}" if reason else ""),
            found.remedy() or "name data that holds text",
        )
    if bad_rows is None and found.summary():
        say(found.summary())


def is_repeatable(location: str) -> bool:
    """Whether a location is cheap to read again (files and folders; not pipes, the network, docstrings)."""
    return location not in (STANDARD_INPUT, INSTALLED_DOCS) and not location.startswith(HUB)


def fault_of(text: str) -> str | None:
    """Return the kind of bad row that a text makes, or None when it is as it should be."""
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


def _all_rows(
    locations: Sequence[str], text_column: str | None, bad_rows: BadRows, counter: BytesRead
) -> Iterator[Row]:
    if not locations:
        raise InputError("no data is named", "name files, folders, globs, - or installed-docs:")
    for names in _grouped(locations):
        if names[0] == STANDARD_INPUT:
            yield from _read_standard_input(text_column, bad_rows)
        elif names[0] == INSTALLED_DOCS:
            from lavra.data.installed_docs import read_installed_docs

            yield from read_installed_docs()
        elif names[0].startswith(HUB):
            yield from _read_hub(names[0], text_column, bad_rows)
        else:
            files = find_files(names)
            for reason, paths in files.left_out.items():
                kept = bad_rows.left_out.setdefault(reason, [])
                kept.extend(path for path in paths if path not in kept)
            for file in files.files:
                yield from _read_file(file, text_column, bad_rows, counter)


def _grouped(locations: Sequence[str]) -> Iterator[list[str]]:
    """Yield runs of locations that are files, folders or globs together (so that repeats are found), others alone."""
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


def _read_file(file: DataFile, text_column: str | None, bad_rows: BadRows, counter: BytesRead) -> Iterator[Row]:
    if file.format == "parquet":
        rows = read_parquet(file.path, text_column, bad_rows, counter)
        yield from _rows_with_columns(rows, text_column, file.source, bad_rows)
        return
    with open_binary(file.path, counter) as stream:
        yield from _read_stream(stream, str(file.path), file.format, text_column, file.source, bad_rows)


def _read_stream(
    stream: BinaryIO, name: str, kind: str, text_column: str | None, source: str, bad_rows: BadRows
) -> Iterator[Row]:
    if kind == "text":
        if text_column is None:
            raise InputError(
                f"{name} is plain text, and rows with columns are needed", "give JSONL, CSV, TSV or Parquet"
            )
        yield from (Row(text, source, place) for text, place in read_text_file(stream, name, bad_rows))
    elif kind == "jsonl":
        yield from _rows_with_columns(read_jsonl(stream, name, bad_rows), text_column, source, bad_rows)
    else:
        rows = read_delimited(stream, name, "," if kind == "csv" else "\t", text_column, bad_rows)
        yield from _rows_with_columns(rows, text_column, source, bad_rows)


def _rows_with_columns(
    rows: Iterable[tuple[Mapping[str, Any], str]], text_column: str | None, source: str, bad_rows: BadRows
) -> Iterator[Row]:
    for fields, place in rows:
        if text_column is None:
            yield Row("", source, place, fields)
            continue
        if text_column not in fields:
            bad_rows.add(MISSING_COLUMN, place, missing_column(text_column, list(fields)))
            continue
        text = fields[text_column]
        if isinstance(text, bytes):
            text = text.decode("utf8", "surrogateescape")
        if text is None:
            bad_rows.add(EMPTY, place)
        elif not isinstance(text, str):
            bad_rows.add(NOT_TEXT, place, f"{text_column!r} holds a {type(text).__name__}")
        else:
            others = {name: value for name, value in fields.items() if name != text_column}
            yield Row(text, source, place, others)


def _read_standard_input(text_column: str | None, bad_rows: BadRows) -> Iterator[Row]:
    """Standard input is JSONL when it begins with an object, and plain text otherwise."""
    stream = sys.stdin.buffer
    kind = "jsonl" if stream.peek(1).startswith(b"{") else "text"  # pyright: ignore[reportAttributeAccessIssue]
    yield from _read_stream(stream, "standard input", kind, text_column, "standard input", bad_rows)


def _read_hub(location: str, text_column: str | None, bad_rows: BadRows) -> Iterator[Row]:
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
    yield from _rows_with_columns(rows, text_column, name, bad_rows)

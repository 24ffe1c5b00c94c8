"""Reads CSV and TSV files with a header line; a stray quote spoils only its line, not those that follow.

Python's `csv` module alone would read everything after a quote that is never closed as one field, so the file is first
divided into records here.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from lavra.core.units import counted
from lavra.data.readers.rows import (
    BAD_CSV,
    FEWER_FIELDS,
    MISSING_COLUMN,
    REPEATED_NAME,
    ROWS_IN_QUOTES,
    SEPARATOR,
    STRAY_QUOTE,
    TOO_LONG,
    BadRows,
)
from lavra.data.readers.tables import LONGEST_LINE, Fields, missing_column

SEPARATORS = ",;\t|"
"""The separators of fields that a CSV file may have, the most common first."""

_HEAD = 1 << 16  # bytes at the beginning of a file by which its dialect is judged
_LONGEST_FIELD = 16 << 20  # characters within which a quote must be closed

# Matches the first line by which some files tell Excel their separator.
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?")


def read_delimited(
    stream: BinaryIO, name: str, kind: str, text_column: str | None, bad_rows: BadRows
) -> Iterator[tuple[Fields, str]]:
    """Yield (fields, "file:line") for the rows of a CSV or TSV file with a header line.

    The separator of a CSV file is the one that gives the header the wanted column, else the most columns. Quoted fields
    may hold line ends; where the lines of such a field would be rows without the quotes, that is noted. A quote that is
    never closed, or not where a field ends, is a character of the text, and its line is a row of its own. In a TSV file
    quotes are characters of the text, unless its beginning is plainly quoted.

    Args:
        stream: Buffered stream of UTF-8.
        name: Name of the file, for messages.
        kind: "csv" or "tsv".
        text_column: Column that the header must have, else the file is left out; None accepts any header.
        bad_rows: Counts the rows with more fields than the header, which are left out, and what is guessed.
    """
    csv.field_size_limit(LONGEST_LINE)  # the module's own limit is 131072
    head = stream.peek(_HEAD)[:_HEAD].decode("utf8", "surrogateescape")  # pyright: ignore[reportAttributeAccessIssue]
    records = _Records(stream, name, bad_rows)
    named = _SEPARATOR_LINE.match(head)
    if named:
        records.skip()
        head = head[named.end() :]
    separator = named[1] if named else "\t" if kind == "tsv" else _separator(head, text_column)
    quoted = kind != "tsv" or _plainly_quoted(head, separator)
    if kind == "csv" and separator != ",":
        bad_rows.note(SEPARATOR, name, repr(separator))
    header: list[str] | None = None
    for row, place, size in records.read(separator, quoted=quoted):
        if header is None:
            header = _header(row, place, bad_rows)
            if any("\r" in column for column in header):
                rest = size + sum(map(len, iter(lambda: stream.read(1 << 20), b"")))
                bad_rows.add(BAD_CSV, place, "lines that end with a carriage return only", size=rest)
                return
            if text_column is not None and text_column not in header:
                rest = sum(map(len, iter(lambda: stream.read(1 << 20), b"")))
                bad_rows.add(MISSING_COLUMN, place, missing_column(text_column, header), size=rest)
                return
            continue
        while len(row) > len(header) and not row[-1].strip():
            row.pop()  # separators at the end of a line, as spreadsheets write them
        if len(row) > len(header):
            bad_rows.add(BAD_CSV, place, f"{counted(len(row), 'field')}, and the header has {len(header)}", size=size)
            continue
        if len(row) < len(header):
            bad_rows.change(FEWER_FIELDS, place, f"{counted(len(row), 'field')}, and the header has {len(header)}")
        yield dict(zip(header, row, strict=False)), place


def _header(row: list[str], place: str, bad_rows: BadRows) -> list[str]:
    header = [name.strip() for name in row]
    for name, count in Counter(header).items():
        if count > 1 and name:
            bad_rows.change(REPEATED_NAME, place, f"{name!r} heads {count} columns")
    return header


def _separator(head: str, text_column: str | None) -> str:
    """Return the separator that gives the header the wanted column, else the one that gives it most columns."""
    first = _first_line(head)
    divided = {separator: _parsed(first, separator) or first.split(separator) for separator in SEPARATORS}
    for separator, names in divided.items():
        if text_column is not None and text_column in [name.strip() for name in names] and len(names) > 1:
            return separator
    return max(SEPARATORS, key=lambda separator: len(divided[separator]))  # the first of equals


def _first_line(head: str) -> str:
    return next((line for line in head.splitlines() if line.strip()), "")


def _plainly_quoted(head: str, separator: str) -> bool:
    """Return whether the quotes of a file are quotes of fields.

    They are where a quoted field holds a separator, a line end or quotes, or where every value of a column is quoted.
    """
    quoted = re.compile(rf'(?:^|(?<={separator}))"([^"]*(?:""[^"]*)*)"(?={separator}|\r?$)', re.MULTILINE)
    for found in quoted.finditer(head, 0, _HEAD // 4):
        inside = found[1]
        if separator in inside and "\n" in inside:
            continue  # between two stray quotes lie rows
        if separator in inside or "\n" in inside or '""' in inside:
            return True
    rows = [line.split(separator) for line in head.splitlines()[1:-1]]
    columns = zip(*rows, strict=False) if len(rows) > 2 else []
    return any(all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in column) for column in columns)


def _parsed(record: str, separator: str) -> list[str] | None:
    """Return the fields of a complete record, or None where its quotes do not match."""
    try:
        rows = list(csv.reader([record], delimiter=separator, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else [] if not rows else None


class _Records:
    """The records of a file: lines, or several of them where a quoted field holds line ends."""

    def __init__(self, stream: BinaryIO, name: str, bad_rows: BadRows) -> None:
        self._stream, self._name, self._bad_rows = stream, name, bad_rows
        self._waiting: list[str] = []
        self._number = 0

    def skip(self) -> None:
        """Skip a line."""
        self._line()

    def read(self, separator: str, *, quoted: bool) -> Iterator[tuple[list[str], str, int]]:
        """Yield (fields, "file:line", bytes) for every record; empty lines are skipped."""
        while line := self._line():
            place = f"{self._name}:{self._number}"
            bare = line.rstrip("\r\n")
            if not bare:
                continue
            if not quoted or '"' not in bare:
                yield bare.split(separator), place, len(line)
                continue
            record, fields = self._quoted(line, bare, separator)
            if fields is None:
                self._bad_rows.change(STRAY_QUOTE, place)
                fields = bare.split(separator)
            yield fields, place, len(record)

    def _quoted(self, line: str, bare: str, separator: str) -> tuple[str, list[str] | None]:
        """Return a record and its fields; the fields are None where a quote is never closed or stands inside a field.

        Lines are added to the record until the number of its quotes is even. If they do not parse then, the first line
        is a record of its own, and the others are read again.
        """
        if (fields := _parsed(bare, separator)) is not None:
            return line, fields
        taken = [line]
        size, quotes = len(line), line.count('"')
        while quotes % 2 and size < _LONGEST_FIELD and (following := self._line()):
            taken.append(following)
            size, quotes = size + len(following), quotes + following.count('"')
        fields = _parsed("".join(taken).rstrip("\r\n"), separator) if len(taken) > 1 else None
        if fields is None or _looks_like_rows(taken, separator):
            self._waiting.extend(reversed(taken[1:]))
            self._number -= len(taken) - 1
            return line, None
        if all(len(one.split(separator)) == len(fields) > 1 for one in taken):
            place = f"{self._name}:{self._number - len(taken) + 1}"
            self._bad_rows.note(ROWS_IN_QUOTES, place, counted(len(taken), "line"))
        return "".join(taken), fields

    def _line(self) -> str:
        """Return the next line; lines that are too long for memory are left out and counted."""
        while True:
            if self._waiting:
                self._number += 1
                return self._waiting.pop()
            line = self._stream.readline(LONGEST_LINE)
            self._number += bool(line)
            if len(line) < LONGEST_LINE or line.endswith(b"\n"):
                return line.decode("utf8", "surrogateescape")
            size = len(line)
            while (rest := self._stream.readline(1 << 20)) and not rest.endswith(b"\n"):
                size += len(rest)
            self._bad_rows.add(TOO_LONG, f"{self._name}:{self._number}", size=size + len(rest))


def _looks_like_rows(lines: list[str], separator: str) -> bool:
    """Return whether lines between two stray quotes are rows rather than one field.

    They are where all have the same number of fields and begin with a number, as rows with an id do.
    """
    divided = [line.rstrip("\r\n").split(separator) for line in lines]
    return all(len(row) == len(divided[0]) > 1 and row[0].strip().isdigit() for row in divided)

"""Reads files line by line with the place of each line, for messages that name file and line; also compressed files."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.readers.compressed import open_binary
from lavra.data.readers.rows import BAD_JSON, BROKEN_UTF8, EXAMPLES, BadRows

ID_FIELDS = ("_id", "id", "docno", "doc_id", "docid", "pid")
"""Names of the columns that may hold the id of a document, in the order in which they are tried."""


def numbered_lines(path: Path, bad_rows: BadRows | None = None) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for every line that is not blank, without its line end.

    Args:
        path: The file, which may be compressed.
        bad_rows: Counts lines that are not UTF-8, which are left out; without it, such a line is an error.

    Raises:
        InputError: if the file cannot be read, or is UTF-16 as a whole; without `bad_rows`, for bytes that are not
            UTF-8, naming the line.
    """
    with open_binary(path) as handle:
        for number, raw in enumerate(handle, start=1):
            place = f"{path.name}:{number}"
            if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise InputError(f"{path} is UTF-16", "convert it: `iconv -f utf16 -t utf8 old > new`")
            try:
                line = raw.decode("utf8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                if bad_rows is not None:
                    bad_rows.add(BROKEN_UTF8, place, f"byte 0x{raw[error.start]:02x}")
                    continue
                raise InputError(
                    f"{place} is not UTF-8", "convert the file, e.g. with `iconv -f latin1 -t utf8 old > new`"
                ) from error
            if line.strip():
                yield place, line.removeprefix("\ufeff") if number == 1 else line


def json_objects(path: Path, bad_rows: BadRows | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) for every line of a JSONL file.

    Args:
        path: The file, which may be compressed.
        bad_rows: Counts lines that are no JSON object, which are left out; without it, such a line is an error.

    Raises:
        InputError: without `bad_rows`, for a line that is no JSON object, naming it.
    """
    for place, line in numbered_lines(path, bad_rows):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if bad_rows is not None:
                bad_rows.add(BAD_JSON, place, str(error))
                continue
            raise InputError(f"{place} is not JSON: {error}", "each line must be one JSON object") from error
        if not isinstance(value, dict):
            if bad_rows is not None:
                bad_rows.add(BAD_JSON, place, f"a {type(value).__name__}, not an object")
                continue
            raise InputError(f"{place} is JSON, but no object", "each line must be one JSON object")
        yield place, value


def text_field(row: Mapping[str, Any], names: tuple[str, ...], place: str, what: str) -> str:
    """Return the first of the named fields of a row as text; whole numbers are written out, because ids often are such.

    Args:
        row: The row.
        names: Names of the fields, in the order in which they are tried.
        place: File and line of the row, for messages.
        what: What the field is, for messages: "a text".

    Raises:
        InputError: if the row has none of the fields; the message names the place.

    Examples:
        >>> from lavra.data.readers.lines import text_field
        >>> text_field({"doc_id": 17, "text": "O mar."}, ("_id", "doc_id"), "corpus.jsonl:3", "id")
        '17'
    """
    found = optional_field(row, names)
    if found:
        return found
    raise InputError(f"{place} has no {what}", f"give every line a field {' or '.join(map(repr, names))}")


def optional_field(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the first of the named fields of a row as text, or an empty string when it has none of them."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""


def warning_lines(bad_rows: BadRows) -> list[str]:
    """Return a line for each kind of problem, e.g. `warning: 2 × empty document (corpus.jsonl:3, …)`.

    Files that were found and not read are named too, with the reason.
    """
    lines = []
    for kind, count in bad_rows.counts.most_common():
        places = [": ".join(filter(None, pair)) for pair in bad_rows.examples[kind]]
        lines.append(f"warning: {count:,} × {kind} ({', '.join(places)}{', …' if count > len(places) else ''})")
    for reason, paths in bad_rows.left_out.items():
        shown = ", ".join(paths[:EXAMPLES]) + (", …" if len(paths) > EXAMPLES else "")
        lines.append(f"left out: {counted(len(paths), 'file')}, {reason} ({shown})")
    return lines


# Requests from a file of JSON lines, with the columns that a command needs.

Reading = Callable[[Any], Any]
"""A function that checks and converts the value of a column; its ValueError says what the value must be."""


def text(value: Any) -> str:
    """Return a value that must be a string.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def text_or_number(value: Any) -> str:
    """Return a string, or a number or a truth value as JSON writes it, because labels often are such.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise ValueError("must be a string or a number")
    return str(value)


def texts(value: Any) -> list[str]:
    """Return a list of one or more strings that are not empty.

    Raises:
        ValueError: if the value is no such list.
    """
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise ValueError("must be a list of strings, at least one and none of them empty")
    return value


def read_records(path: str | Path, columns: Mapping[str, Reading]) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file; empty lines are skipped.

    Args:
        path: The file.
        columns: Names of the columns that every object must have, with the function that reads each; other columns
            stay as they are.

    Raises:
        InputError: if the file cannot be read or has no objects; or, with the line, if one is not an object with these
            columns, or a value is of another kind.
    """
    named = " and ".join(f'"{name}"' for name in columns)
    records = []
    for place, record in json_objects(Path(path)):
        missing = [name for name in columns if name not in record]
        if missing:
            raise InputError(f"{place} has no {' and no '.join(map(repr, missing))}", f"every line needs {named}")
        records.append({**record, **{name: _read(place, name, record[name], read) for name, read in columns.items()}})
    if not records:
        raise InputError(f"{path} is empty", f"give one JSON object per line, with {named}")
    return records


def _read(place: str, name: str, value: Any, read: Reading) -> Any:
    try:
        return read(value)
    except ValueError as error:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        raise InputError(f'{place}: "{name}" is {shown}', f'"{name}" {error}') from error

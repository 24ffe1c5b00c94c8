"""Reads files line by line with the place of each line, for messages that name file and line; also compressed files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.readers.compressed import open_binary
from lavra.data.readers.encodings import as_utf8
from lavra.data.readers.json_values import JsonValues
from lavra.data.readers.rows import BAD_JSON, BROKEN_UTF8, EXAMPLES, WINDOWS_1252, BadRows

ID_FIELDS = ("_id", "id", "docno", "doc_id", "docid", "pid")
"""Names of the columns that may hold the id of a document, in the order in which they are tried."""


def numbered_lines(path: Path, bad_rows: BadRows | None = None) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for every line that is not blank, without its line end.

    The encoding is found as in every other file, see `lavra.data.readers.encodings`.

    Args:
        path: The file, which may be compressed.
        bad_rows: Counts the encodings that are guessed, and lines that cannot be decoded, which are left out; without
            it, only UTF-8 and what a byte order mark names are read, and everything else is an error.

    Raises:
        InputError: if the file cannot be read; without `bad_rows`, for bytes that are not UTF-8, naming the line.
    """
    found = BadRows() if bad_rows is None else bad_rows
    with open_binary(path) as handle:
        for number, raw in enumerate(as_utf8(handle, path.name, found), start=1):
            place = f"{path.name}:{number}"
            if bad_rows is None and WINDOWS_1252 in found.examples:
                raise _not_utf8(found.examples[WINDOWS_1252][0][0])
            try:
                line = raw.decode("utf8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                if bad_rows is None:
                    raise _not_utf8(place) from error
                bad_rows.add(BROKEN_UTF8, place, f"byte 0x{raw[error.start]:02x}", size=len(raw))
                continue
            if line.strip():
                yield place, line


def _not_utf8(place: str) -> InputError:
    return InputError(f"{place} is not UTF-8", "convert the file, e.g. with `iconv -f latin1 -t utf8 old > new`")


def json_objects(path: Path, bad_rows: BadRows | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) for every line of a JSONL file.

    Args:
        path: The file, which may be compressed.
        bad_rows: Counts lines that are no JSON object, which are left out; without it, such a line is an error.

    Raises:
        InputError: without `bad_rows`, for a line that is no JSON object, naming it.
    """
    values = JsonValues()
    for place, line in numbered_lines(path, bad_rows):
        try:
            value = values.read(line)
        except (ValueError, RecursionError) as error:
            if bad_rows is not None:
                bad_rows.add(BAD_JSON, place, str(error), size=len(line.encode()))
                continue
            raise InputError(f"{place} is not JSON: {error}", "each line must be one JSON object") from error
        if not isinstance(value, dict):
            if bad_rows is not None:
                bad_rows.add(BAD_JSON, place, f"a {type(value).__name__}, not an object", size=len(line.encode()))
                continue
            raise InputError(f"{place} is JSON, but no object", "each line must be one JSON object")
        if "\\u" in line and not _is_unicode(value):
            if bad_rows is not None:
                bad_rows.add(BROKEN_UTF8, place, "half a character", size=len(line.encode()))
                continue
            raise InputError(f"{place} holds half a character (a lone surrogate)", "write both halves of it, or none")
        if bad_rows is not None:
            bad_rows.repeated(values.repeated, place)
        elif values.repeated is not None:
            raise InputError(f"{place} gives {values.repeated!r} twice", "give each name once")
        yield place, value


def _is_unicode(value: object) -> bool:
    """Return whether the text in a value can be written; half a character, which JSON can spell, cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


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

    What was guessed, replaced or noted is named too, and so are files that were found and not read, with the reason.
    """
    lines = []
    counts = (bad_rows.counts, bad_rows.changes, bad_rows.notes)
    for kind, count in (each for one in counts for each in one.most_common()):
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

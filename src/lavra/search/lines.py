"""Lines of a text file with their places, for messages that name file and line; compressed files are opened too."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.data.bad_rows import BAD_JSON, BROKEN_UTF8, EXAMPLES, BadRows
from lavra.data.compressed import open_binary


def numbered_lines(path: Path, bad_rows: BadRows | None = None) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for every line that is not blank, without its line end.

    Args:
        path: the file, also compressed.
        bad_rows: counts lines that are not UTF-8, which are left out.

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
        path: the file, also compressed.
        bad_rows: counts lines that are no JSON object, which are left out.

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
    """Return the first of the named fields of a row as text; numbers are written out, as ids often are numbers.

    Raises:
        InputError: if the row has none of them, naming the place.
    """
    found = optional_field(row, names)
    if found:
        return found
    raise InputError(f"{place} has no {what}", f"give every line a field {' or '.join(map(repr, names))}")


def optional_field(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the first of the named fields of a row as text, or "" when it has none of them."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""


def warning_lines(bad_rows: BadRows) -> list[str]:
    """Return a sentence for each kind of problem, e.g. `warning: 2 × empty document (corpus.jsonl:3, …)`.

    Files that were found and not read are named too, with the reason.
    """
    lines = []
    for kind, count in bad_rows.counts.most_common():
        places = [": ".join(filter(None, pair)) for pair in bad_rows.examples[kind]]
        lines.append(f"warning: {count:,} × {kind} ({', '.join(places)}{', …' if count > len(places) else ''})")
    for reason, paths in bad_rows.left_out.items():
        shown = ", ".join(paths[:EXAMPLES]) + (", …" if len(paths) > EXAMPLES else "")
        lines.append(f"left out: {len(paths):,} files, {reason} ({shown})")
    return lines

"""Lines of a text file with their places, for messages that name file and line; compressed files are opened too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.data.bad_rows import BadRows
from lavra.data.compressed import open_binary


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for every line that is not blank, without its line end.

    Raises:
        InputError: if the file cannot be read, or for bytes that are not UTF-8, naming the line.
    """
    with open_binary(path) as handle:
        for number, raw in enumerate(handle, start=1):
            place = f"{path.name}:{number}"
            try:
                line = raw.decode("utf8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{place} is not UTF-8", "convert the file, e.g. with `iconv -f latin1 -t utf8`"
                ) from error
            if line.strip():
                yield place, line.removeprefix("\ufeff") if number == 1 else line


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) for every line of a JSONL file.

    Raises:
        InputError: for a line that is no JSON object, naming it.
    """
    for place, line in numbered_lines(path):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{place} is not JSON: {error}", "each line must be one JSON object") from error
        if not isinstance(value, dict):
            raise InputError(f"{place} is JSON, but no object", "each line must be one JSON object")
        yield place, value


def text_field(row: Mapping[str, Any], names: tuple[str, ...], place: str, what: str) -> str:
    """Return the first of the named fields of a row as text; numbers are written out, as ids often are numbers.

    Raises:
        InputError: if the row has none of them, naming the place.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    raise InputError(f"{place} has no {what}", f"give every line a field {' or '.join(map(repr, names))}")


def warning_lines(bad_rows: BadRows) -> list[str]:
    """Return a sentence for each kind of problem, e.g. `warning: 2 × empty document (corpus.jsonl:3, …)`."""
    lines = []
    for kind, count in bad_rows.counts.most_common():
        places = [": ".join(filter(None, pair)) for pair in bad_rows.examples[kind]]
        lines.append(f"warning: {count:,} × {kind} ({', '.join(places)}{', …' if count > len(places) else ''})")
    return lines

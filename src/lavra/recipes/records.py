"""Requests from a file: JSON Lines with the columns that a command needs, each of the kind that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.search.lines import json_objects

Reading = Callable[[Any], Any]
"""Turns the value of a column into what is needed; a ValueError says, in words, what the value must be."""


def text(value: Any) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def text_or_number(value: Any) -> str:
    """Read a string, or a number or a truth value as JSON writes it: labels often are such."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise ValueError("must be a string or a number")
    return str(value)


def texts(value: Any) -> list[str]:
    """Read a list of one or more strings that are not empty."""
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise ValueError("must be a list of strings, at least one and none of them empty")
    return value


def read_records(path: str | Path, columns: Mapping[str, Reading]) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file; empty lines are passed over.

    Args:
        path: the file.
        columns: what every object must have, and how each is read; other columns stay as they are.

    Raises:
        InputError: if the file cannot be read or has no objects; naming the line, if one is not an object with these
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

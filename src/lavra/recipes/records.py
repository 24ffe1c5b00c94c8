"""Requests from a file: JSON Lines with the columns that a command needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.search.lines import json_objects


def read_records(path: str | Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file; empty lines are passed over.

    Args:
        path: the file.
        columns: what every object must have.

    Raises:
        InputError: if the file cannot be read, has no objects, or a line is not an object with these columns.
    """
    named = " and ".join(f'"{name}"' for name in columns)
    records = []
    for place, record in json_objects(Path(path)):
        missing = [name for name in columns if name not in record]
        if missing:
            raise InputError(f"{place} has no {' and no '.join(map(repr, missing))}", f"every line needs {named}")
        records.append(record)
    if not records:
        raise InputError(f"{path} is empty", f"give one JSON object per line, with {named}")
    return records

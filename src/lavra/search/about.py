"""How a file of generated queries was made, in a file beside it: for the experiment's report, and to go on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavra.core.files import read_json, write_json


def _beside(expansions: Path) -> Path:
    return expansions.with_name(expansions.name + ".about.json")


def write_about(expansions: Path, about: dict[str, Any]) -> None:
    """Write what is known of a file of queries beside it."""
    write_json(_beside(expansions), about)


def read_about(expansions: Path) -> dict[str, Any] | None:
    """Return what was written beside a file of queries; None when it came from elsewhere.

    Raises:
        Damaged: if the file is not JSON.
    """
    path = _beside(expansions)
    found = read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) else None

"""Files that appear whole or not at all: they are written beside their place, synced to disk, and renamed into it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from lavra.core.errors import CorruptFile


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; a rename survives a power cut only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of `path` durable."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part, even after a power cut.

    Args:
        path: The file to write; missing parent folders are made.
        content: Bytes, or text that is written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes 0600; a run folder is meant to be shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        CorruptFile: if the file is missing, cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing") from error
    except OSError as error:  # a folder in its place, no right to read it
        raise CorruptFile(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise CorruptFile(f"{path} is damaged: it is nested thousands deep") from error
    except ValueError as error:  # no JSON, no UTF-8
        raise CorruptFile(f"{path} is damaged: {error}") from error

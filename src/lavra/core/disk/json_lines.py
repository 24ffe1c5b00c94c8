"""Files with one JSON object per line that only grow, and that survive a crash in the middle of a line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lavra.core.disk.files import write_atomically
from lavra.core.errors import Damaged


def one_line(value: Any) -> str:
    """Return JSON on one line; numbers that JSON has no name for (infinite, not a number) become null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


class JsonLines:
    """One such file. It need not exist yet.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one object, as `one_line` writes it; it is out of the process's hands when this returns."""
        if not self._whole:
            self.drop_half_line()
        line = one_line(record) + "\n"
        with self.path.open("a", encoding="utf8") as handle:
            handle.write(line)

    def read(self) -> list[dict[str, Any]]:
        """Return every whole line; a last line that a crash left unfinished is dropped.

        Raises:
            Damaged: if a line other than an unfinished last one does not parse.
        """
        records: list[dict[str, Any]] = []
        for number, line in enumerate(self._whole_lines(), start=1):
            records.append(self._record(line, number))
        return records

    def salvage(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the lines that are whole, and what is wrong with the others, a sentence each.

        Raises:
            Damaged: if there is no file that can be read.
        """
        records, faults = [], []
        for number, line in enumerate(self._whole_lines(), start=1):
            try:
                records.append(self._record(line, number))
            except Damaged as error:
                faults.append(error.message)
        return records, faults

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = "it is nested thousands deep" if isinstance(error, RecursionError) else error
            raise Damaged(f"{self.path}:{number} is damaged: {why}", "remove that line") from error
        if not isinstance(record, dict):
            raise Damaged(f"{self.path}:{number} is damaged: it holds no object", "remove that line")
        return record

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Keep the lines that are wanted, drop the others and any unfinished one, and return how many were dropped."""
        records = self.read()
        kept = [record for record in records if wanted(record)]
        if self.path.exists():
            write_atomically(self.path, "".join(one_line(record) + "\n" for record in kept))
        self._whole = True
        return len(records) - len(kept)

    def _whole_lines(self) -> list[bytes]:
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise Damaged(f"{self.path} cannot be read: {error.strerror}") from error
        return content[: content.rfind(b"\n") + 1].splitlines()

    def drop_half_line(self) -> int:
        """Cut an unfinished last line, so that the next one does not grow onto it; return how many whole ones stay."""
        content = b""
        if self.path.exists():
            with self.path.open("rb+") as handle:
                content = handle.read()
                handle.truncate(content.rfind(b"\n") + 1)
        self._whole = True
        return content.count(b"\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

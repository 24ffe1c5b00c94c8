"""Files with one JSON object per line that only grow, and that survive a crash in the middle of a line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lavra.core.disk.files import write_atomically
from lavra.core.errors import CorruptFile


def one_line(value: Any) -> str:
    """Return a value as JSON on one line; numbers that JSON cannot write (infinite, not a number) become null.

    Examples:
        >>> from lavra.core.disk.json_lines import one_line
        >>> one_line({"step": 3, "loss": float("nan")})
        '{"step": 3, "loss": null}'
    """
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


class JsonLines:
    """A file with one JSON object per line, to which objects are appended.

    Args:
        path: The file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one object, as `one_line` writes it.

        When this returns, the system has the line, so that it survives the death of the process.
        """
        if not self._whole:
            self.drop_half_line()
        line = one_line(record) + "\n"
        with self.path.open("a", encoding="utf8") as handle:
            handle.write(line)

    def read(self) -> list[dict[str, Any]]:
        """Return the object of every complete line; a last line that a crash left unfinished is dropped.

        Raises:
            CorruptFile: if a line other than an unfinished last one does not parse.
        """
        records: list[dict[str, Any]] = []
        for number, line in enumerate(self._whole_lines(), start=1):
            records.append(self._record(line, number))
        return records

    def salvage(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the objects of the lines that parse, and one sentence for each of the others that says what is wrong.

        Raises:
            CorruptFile: if the file cannot be read.
        """
        records, faults = [], []
        for number, line in enumerate(self._whole_lines(), start=1):
            try:
                records.append(self._record(line, number))
            except CorruptFile as error:
                faults.append(error.message)
        return records, faults

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = "it is nested thousands deep" if isinstance(error, RecursionError) else error
            raise CorruptFile(f"{self.path}:{number} is damaged: {why}", "remove that line") from error
        if not isinstance(record, dict):
            raise CorruptFile(f"{self.path}:{number} is damaged: it holds no object", "remove that line")
        return record

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Keep the lines that are wanted, and drop the others and an unfinished last one.

        Args:
            wanted: Returns whether the object of a line is kept.

        Returns:
            The number of complete lines that were dropped.
        """
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
            raise CorruptFile(f"{self.path} cannot be read: {error.strerror}") from error
        return content[: content.rfind(b"\n") + 1].splitlines()

    def drop_half_line(self) -> int:
        """Remove an unfinished last line, so that the next one does not continue it.

        Returns:
            The number of complete lines that stay.
        """
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

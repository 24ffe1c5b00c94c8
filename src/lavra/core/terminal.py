"""Text that others wrote, made safe to show on a terminal."""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO, cast

_BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069"
"""Marks that turn the direction of what follows: a name or a message can then read as something that it is not."""

_CONTROLS = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDIRECTIONAL}]")
_MARKS = re.compile(rf"[{_BIDIRECTIONAL}]")


def printable(text: str) -> str:
    """Return `text` with control characters (but tab and newline) and marks of direction shown as `�`.

    A model can write the escape sequences of a terminal, which would then clear the screen or change its colours.
    """
    return _CONTROLS.sub("�", text)


def shield_terminal() -> None:
    """Show marks of direction as `�` in all that this process writes to a terminal from now on, whoever writes it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty() and not isinstance(stream, _Shielded):
            setattr(sys, name, cast(TextIO, _Shielded(stream)))


class _Shielded:
    """A stream that is written to without marks of direction; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_MARKS.sub("�", text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

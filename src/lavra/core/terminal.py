"""Text that others wrote, made safe to show on a terminal."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Return `text` with control characters (but tab and newline) shown as `�`.

    A model can write the escape sequences of a terminal, which would then clear the screen or change its colours.
    """
    return _CONTROLS.sub("�", text)

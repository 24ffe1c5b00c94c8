"""Templates of messages, and the expressions that find what a message put into their placeholders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

PLACE = re.compile(r"\{(\w+)(?:!([nt]))?\}")
"""A placeholder of a template."""

_UNIT = r"[A-Za-zµ]{1,3}(?![A-Za-z])(?<!\bof)(?<!\band)(?<!\bto)(?<!\bin)(?<!\bon)(?<!\bis)(?<!\bat)(?<!\bby)"
_KINDS = {
    "": r"\S.*?",
    "n": rf"[-+−±]?(?>\d(?:[\d,.]*\d)?|\?|nan|inf)(?:[^A-Za-z,;]|,(?=\d)|, (?=[-+\d])|{_UNIT})*?",
    "t": ".*?",
}
"""The expressions that the kinds of placeholders match. A number is taken whole, before what follows it; after it may
come signs, further numbers and units of at most three letters."""

_BEGIN = r"(?:(?!: |; ).)+?"
"""The expression of a placeholder of any text at the beginning of a template."""

BETWEEN = re.compile(r"\{\w+(?:![nt])?\}")
"""A placeholder, for what stands between two of them."""

FIGURE = re.compile(r"[\[(]*" + _KINDS["n"])
"""A number, or several, with units."""


@dataclass(frozen=True)
class Template:
    """A message with placeholders, and its translation.

    Attributes:
        english: The message as the program makes it.
        translated: The message in the other language, with the same names of placeholders.
    """

    english: str
    translated: str

    @property
    def places(self) -> dict[str, str]:
        """How the text of each placeholder is taken over, by its name: "" as it is, "n" as a number, "t" told again."""
        return {name: how or "" for name, how in PLACE.findall(self.english)}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The expression that matches messages made of the template."""
        parts, end = [], 0
        for place in PLACE.finditer(self.english):
            # What a message begins with is a name or a place, not another message that a sign divides from the rest.
            kind = _BEGIN if place.span() == (0, len(place[0])) and not place[2] else _KINDS[place[2] or ""]
            parts += [re.escape(self.english[end : place.start()]), f"(?P<{place[1]}>{kind})"]
            end = place.end()
        return re.compile("".join(parts) + re.escape(self.english[end:]))

    @cached_property
    def anchor(self) -> str:
        """The longest piece of text between its placeholders, which stands in every message made of the template."""
        return max(BETWEEN.split(self.english), key=len)

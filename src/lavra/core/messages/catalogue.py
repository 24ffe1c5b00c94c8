"""Messages in another language than English: each line is matched with a template of the catalogue as it is printed.

The program makes its messages in English, and everything that it writes to files or as JSON stays so. What goes to a
terminal for a person passes `told`, which looks each line up in the catalogue of the language (`pt.json`: an English
template and its translation) and puts what the message said into the translation. A line without a template stays
English, and is complete.

A placeholder of a template is `{name}`, whose text is taken over as it is; `{name!n}`, a number with its unit, whose
separators are exchanged; or `{name!t}`, a phrase that has a template of its own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LANGUAGE = "LAVRA_LANG"
"""Name of the environment variable that chooses the language; without it the locale does."""

_VARIABLES = (LANGUAGE, "LC_ALL", "LC_MESSAGES", "LANG")
"""Environment variables that name a language, the first that is set decides."""

_ENGLISH = "en"

_PLACE = re.compile(r"\{(\w+)(?:!([nt]))?\}")
"""A placeholder of a template."""

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_GAP = re.compile(r"(?<=\S)  +(?=\S)")
"""The gap between two columns of a table."""

_RULE = "─"
"""What the line below the titles of a table is made of."""


def language() -> str:
    """Return the language of messages: that of `LAVRA_LANG`, else that of the locale; English where there is none."""
    named = next((value for name in _VARIABLES if (value := os.environ.get(name))), "")
    return named[:2].lower() if named[:2].lower() in _catalogues() else _ENGLISH


def told(text: str) -> str:
    """Return a message in the language of the user, line by line.

    Args:
        text: The message in English. Lines that the catalogue lacks stay as they are.

    Examples:
        >>> import os
        >>> os.environ["LAVRA_LANG"] = "pt"
        >>> told("training a tokenizer of 8192 tokens")
        'treinando um tokenizador de 8192 tokens'
        >>> os.environ["LAVRA_LANG"] = "en"
        >>> told("training a tokenizer of 8192 tokens")
        'training a tokenizer of 8192 tokens'
    """
    chosen = language()
    if chosen == _ENGLISH or not text:
        return text
    catalogue, lines, done = read_catalogue(chosen), text.split("\n"), []
    while lines:
        rows = _rows(lines)
        done += catalogue.table(lines[:rows]) if rows > 1 else [catalogue.line(lines[0])]
        del lines[: max(rows, 1)]
    return "\n".join(done)


def _rows(lines: list[str]) -> int:
    """Return how many of the lines, from the first, are rows of one table: columns with gaps, and the same indent."""
    count = 0
    while count < len(lines) and _GAP.search(lines[count]) and _indent(lines[count]) == _indent(lines[0]):
        count += 1
    return count


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


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
        return {name: how or "" for name, how in _PLACE.findall(self.english)}

    @property
    def pattern(self) -> re.Pattern[str]:
        """The expression that matches messages made of the template."""
        parts, end = [], 0
        for place in _PLACE.finditer(self.english):
            kind = r"[-+]?[\d?].*?" if place[2] == "n" else ".+?"
            parts += [re.escape(self.english[end : place.start()]), f"(?P<{place[1]}>{kind})"]
            end = place.end()
        return re.compile("".join(parts) + re.escape(self.english[end:]))


class Catalogue:
    """The messages of a language.

    Args:
        messages: Each English template with its translation.
    """

    def __init__(self, messages: Mapping[str, str]) -> None:
        self.templates = [Template(english, translated) for english, translated in messages.items()]
        self._whole = {one.english: one.translated for one in self.templates if not one.places}
        # The templates with the most text of their own first: they say most exactly what they match.
        ordered = sorted(self.templates, key=lambda one: -len(_PLACE.sub("", one.english)))
        self._patterns = [(one, one.pattern) for one in ordered if one.places]

    def line(self, line: str) -> str:
        """Return one line in the language; as it is where there is no template for it."""
        return _indent(line) + (self.phrase(line.strip()) or line.strip())

    def table(self, lines: list[str]) -> list[str]:
        """Return the rows of a table with their titles and numbers in the language, and the columns below each other.

        Args:
            lines: The rows, with the same indent, whose columns are divided by gaps of two spaces or more.
        """
        rows = [self._row(line.strip()) for line in lines]
        wide, wider = max(len(title) for title, _, _ in rows), max(len(new) for _, new, _ in rows)
        return [
            _indent(line) + (_RULE * wider if set(title) == {_RULE} else f"{new:<{wider}}") + rest[wide - len(title) :]
            for line, (title, new, rest) in zip(lines, rows, strict=True)
        ]

    def phrase(self, text: str) -> str | None:
        """Return a message without line ends in the language, or None where there is no template for it."""
        if text in self._whole:
            return self._whole[text]
        for template, pattern in self._patterns:
            match = pattern.fullmatch(text)
            if match is not None:
                values = {name: self._taken(match[name], how) for name, how in template.places.items()}
                return _PLACE.sub(lambda place, values=values: values[place[1]], template.translated)
        return None

    def _taken(self, text: str, how: str) -> str:
        if how == "n":
            return localized(text)
        return (self.phrase(text) or text) if how == "t" else text

    def _row(self, text: str) -> tuple[str, str, str]:
        """Return the first cell of a row, the same in the language, and the rest of the row in the language."""
        gap = _GAP.search(text)
        assert gap is not None
        title = text[: gap.start()]
        cells = re.findall(r"( +)(\S+(?: \S+)*)", text[gap.start() :])
        rest = ""
        for space, cell in cells:
            new = self.phrase(cell) or (localized(cell) if _NUMBER.match(cell.lstrip("[-+")) else cell)
            rest += " " * max(2, len(space) + len(cell) - len(new)) + new
        return title, self.phrase(title) or title, rest


def told_number(text: str) -> str:
    """Return a number with its unit in the notation of the user's language.

    Args:
        text: The number in English notation, such as "12.3k".
    """
    return text if language() == _ENGLISH else localized(text)


def localized(text: str) -> str:
    """Return a number in English notation with comma and point exchanged, whatever else stands around it.

    Examples:
        >>> localized("1,234.5 tokens/s")
        '1.234,5 tokens/s'
    """
    return _NUMBER.sub(lambda found: found[0].translate(str.maketrans(",.", ".,")), text)


def _catalogues() -> tuple[str, ...]:
    return ("pt",)


@cache
def read_catalogue(name: str) -> Catalogue:
    """Return the catalogue of a language.

    Args:
        name: Two letters, such as "pt".
    """
    return Catalogue(json.loads((Path(__file__).with_name(f"{name}.json")).read_text(encoding="utf8")))

"""Messages in another language than English: each line is matched with a template of the catalogue as it is printed.

The program makes its messages in English, and everything that it writes to files or as JSON stays so. What goes to a
terminal for a person passes `told`, which looks each line up in the catalogue of the language (the files of `pt/`, one
for each room of the program: an English template and its translation) and puts what the message said into the
translation. A line without a template stays English, and is complete. The help of a command is looked up in the same
way, text by text (see `lavra.cli.help`).

A placeholder of a template is `{name}`, whose text is taken over as it is; `{name!n}`, a number with its unit, whose
separators are exchanged; or `{name!t}`, a phrase that has a template of its own, several of them, or nothing.

Thousands of templates are known, of which a message needs one: each is looked at only where its longest piece of text
stands in the message, and its expression is made then.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

LANGUAGE = "LAVRA_LANG"
"""Name of the environment variable that chooses the language; without it the locale does."""

_VARIABLES = (LANGUAGE, "LC_ALL", "LC_MESSAGES", "LANG")
"""Environment variables that name a language, the first that is set decides."""

_ENGLISH = "en"

_PLACE = re.compile(r"\{(\w+)(?:!([nt]))?\}")
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

_CLAUSE = re.compile(r"(; | · |\. (?=[A-Z]))")
_ITEM = re.compile(r"(, )")
"""What divides the phrases of a message that is made of several, and the items of a list of phrases."""

_BETWEEN = re.compile(r"\{\w+(?:![nt])?\}")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_FIGURE = re.compile(r"[\[(]*" + _KINDS["n"])
"""A number, or several, with units."""

_EXPLAINED = re.compile(r"(.+?) \((.*)\)")
"""A phrase, and more about it in brackets."""

_WORD = re.compile("[A-Za-z]{3}")
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
        spaced = catalogue.spaced(lines[0])
        if spaced is not None:
            done.append(spaced)
            del lines[0]
            continue
        columns = _columns(lines)
        rows = _ruled_rows(lines, columns) if columns else _rows(lines)
        if columns:
            done += catalogue.ruled_table(lines[:rows], columns)
        else:
            done += catalogue.table(lines[:rows]) if rows > 1 else [catalogue.line(lines[0])]
        del lines[: max(rows, 1)]
    return "\n".join(done)


def _columns(lines: list[str]) -> list[tuple[int, int]]:
    """Return where the columns of a table begin and end, by the rule below its titles; nothing for other lines."""
    rule = lines[1] if len(lines) > 1 else ""
    return [part.span() for part in re.finditer(f"{_RULE}+", rule)] if set(rule) == {" ", _RULE} else []


def _ruled_rows(lines: list[str], columns: list[tuple[int, int]]) -> int:
    """Return how many of the lines, from the first, keep to the columns of a table."""
    gaps = [(0, columns[0][0]), *((end, start) for (_, end), (start, _) in itertools.pairwise(columns))]
    count = 0
    while count < len(lines) and lines[count].strip():
        line = lines[count]
        if any(line[start:end].strip() for start, end in gaps) or line[columns[-1][1] :].strip():
            break
        count += 1
    return count


def _rows(lines: list[str]) -> int:
    """Return how many of the lines, from the first, are rows of one table: columns with gaps, and the same indent.

    The first row may be titles, which begin further to the right because that of the first column is empty.
    """
    count = int(len(lines) > 1 and len(_indent(lines[0])) > len(_indent(lines[1])) and bool(_GAP.search(lines[0])))
    indent = _indent(lines[count])
    while count < len(lines) and _GAP.search(lines[count]) and _indent(lines[count]) == indent:
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

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The expression that matches messages made of the template."""
        parts, end = [], 0
        for place in _PLACE.finditer(self.english):
            # What a message begins with is a name or a place, not another message that a sign divides from the rest.
            kind = _BEGIN if place.span() == (0, len(place[0])) and not place[2] else _KINDS[place[2] or ""]
            parts += [re.escape(self.english[end : place.start()]), f"(?P<{place[1]}>{kind})"]
            end = place.end()
        return re.compile("".join(parts) + re.escape(self.english[end:]))

    @cached_property
    def anchor(self) -> str:
        """The longest piece of text between its placeholders, which stands in every message made of the template."""
        return max(_BETWEEN.split(self.english), key=len)


class Catalogue:
    """The messages of a language.

    Args:
        messages: Each English template with its translation.
    """

    def __init__(self, messages: Mapping[str, str]) -> None:
        self.templates = [Template(english, translated) for english, translated in messages.items()]
        self._whole = {one.english: one.translated for one in self.templates if not one.places}
        # Those that begin with a word of their own first, then those with the most text: they say best what they match.
        ordered = sorted(
            self.templates,
            key=lambda one: (not _WORD.match(one.english), -len(_PLACE.sub("", one.english)), len(one.places)),
        )
        self._patterns = [(one.anchor, one) for one in ordered if one.places]
        self._spaced = [(anchor, one) for anchor, one in self._patterns if _GAP.search(one.english)]

    def line(self, line: str) -> str:
        """Return one line in the language; as it is where there is no template for it, nor for each of its phrases."""
        text = line.strip()
        return _indent(line) + (self.phrase(text) or self._phrases(text, _CLAUSE) or text)

    def spaced(self, line: str) -> str | None:
        """Return a line for which there is a template with gaps of its own, which keep its columns; else None."""
        new = self._made(line.strip(), self._spaced) if _GAP.search(line) else None
        return None if new is None else _indent(line) + new

    def table(self, lines: list[str]) -> list[str]:
        """Return the rows of a table with their titles and numbers in the language, and the columns below each other.

        Args:
            lines: The rows, with the same indent, whose columns are divided by gaps of two spaces or more.
        """
        indent = min(map(_indent, lines), key=len)
        rows = [_parted(line.rstrip()[len(indent) :]) for line in lines]
        titles = [self.phrase(title) or title for title, _ in rows]
        wide, wider = max(len(title) for title, _ in rows), max(map(len, titles))
        starts = {len(title) + len(cells[0][0]) for title, cells in rows}
        ends = {len(title) + len("".join(cells[0])) for title, cells in rows}
        right = len(starts) > 1 or (len(ends) == 1 and any(_FIGURE.fullmatch(cells[0][1]) for _, cells in rows))
        shown = []
        for new_title, (title, cells) in zip(titles, rows, strict=True):
            text = new_title.ljust(wider)
            for number, (space, cell) in enumerate(cells):
                new = self._cell(cell)
                if number == 0 and not right:
                    text += " " * (min(starts) - wide) + new
                else:
                    room = len(space) + len(cell) - (wide - len(title) if number == 0 else 0)
                    text += " " * max(2, room - len(new)) + new
            shown.append(indent + text)
        return shown

    def ruled_table(self, lines: list[str], columns: list[tuple[int, int]]) -> list[str]:
        """Return a table with a rule below its titles in the language; each column stays aligned as it is.

        Args:
            lines: The titles, the rule and the rows.
            columns: Where each column begins and ends.
        """
        rows = [[line[start:end] for start, end in columns] for line in lines]
        new = [[self._cell(cell.strip()) for cell in row] for row in rows]
        shown = [_indent(lines[1])] * len(lines)
        for number, (start, end) in enumerate(columns):
            cells = [row[number] for row in new]
            width = max(end - start, *map(len, cells))
            old = [row[number] for row in rows if row[number].strip()]
            full = all(len(cell) == end - start and not cell.endswith(" ") for cell in old)
            left = not any(cell.startswith(" ") for cell in old) and not (full and any(map(_FIGURE.fullmatch, old)))
            cells[1] = _RULE * width
            gap = "  " if number else ""
            shown = [
                f"{line}{gap}{f'{cell:<{width}}' if left else f'{cell:>{width}}'}"
                for line, cell in zip(shown, cells, strict=True)
            ]
        return [line.rstrip() for line in shown]

    def _cell(self, text: str) -> str:
        """Return a cell of a table in the language: a phrase or several, a number, or as it is."""
        several = (self._phrases(text, between) for between in (_CLAUSE, _ITEM))
        return (self.phrase(text) or next(filter(None, several), None) or _figure(text)) if text else text

    def phrase(self, text: str) -> str | None:
        """Return a message without line ends in the language, or None where there is no template for it."""
        new = self._whole[text] if text in self._whole else self._made(text, self._patterns)
        if new is not None:
            return new
        begin, end = ("(", ")") if text[:1] == "(" and text[-1] == ")" else ("", text[-1:] if text[-1:] in ".;" else "")
        inner = self.phrase(text[len(begin) : len(text) - len(end)]) if end and text != end else None
        return None if inner is None else begin + inner + end

    def _explained(self, text: str) -> str | None:
        """Return a phrase with more about it in brackets, which may have no template, in the language; else None."""
        parts = _EXPLAINED.fullmatch(text)
        phrase = parts and self.phrase(parts[1])
        return f"{phrase} ({self.phrase(parts[2]) or parts[2]})" if parts and phrase else None

    def _made(self, text: str, templates: list[tuple[str, Template]]) -> str | None:
        """Return a message made of one of some templates in the language, else None."""
        for anchor, template in templates:
            match = template.pattern.fullmatch(text) if anchor in text else None
            if match is not None:
                values = {name: self._taken(match[name], how) for name, how in template.places.items()}
                return _PLACE.sub(lambda place, values=values: values[place[1]], template.translated)
        return None

    def _phrases(self, text: str, between: re.Pattern[str], *, some: bool = False) -> str | None:
        """Return a message made of several phrases in the language; None where one of them has no template.

        Numbers need none.

        Args:
            text: The message.
            between: What divides the phrases.
            some: Whether phrases without a template are taken over as they are, if there is one for another.
        """
        parts = between.split(text)
        new = [self.phrase(part) if part and number % 2 == 0 else part for number, part in enumerate(parts)]
        found = sum(phrase is not None for part, phrase in zip(parts[::2], new[::2], strict=True) if part)
        unknown = [part for part, phrase in zip(parts, new, strict=True) if phrase is None]
        if len(parts) == 1 or not found or (not some and not all(map(_FIGURE.fullmatch, unknown))):
            return None
        return "".join(_figure(part) if phrase is None else phrase for part, phrase in zip(parts, new, strict=True))

    def _taken(self, text: str, how: str) -> str:
        """Return what a placeholder holds: as it is, or in the language by the kind of the placeholder."""
        bare = text.strip()
        if how == "n":
            return localized(text)
        if how != "t" or not bare:
            return text
        phrases = (self._phrases(bare, between, some=True) for between in (_CLAUSE, _ITEM))
        new = self.phrase(bare) or self._explained(bare) or next(filter(None, phrases), None) or _figure(bare)
        return text[: text.index(bare)] + new + text[text.index(bare) + len(bare) :]


def _parted(line: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the first cell of a row, which may be empty, and the other cells with the spaces before each."""
    cells = re.findall(r"( *)(\S+(?: \S+)*)", line)
    return ("", cells) if line.startswith(" ") else (cells[0][1], cells[1:])


def _figure(text: str) -> str:
    """Return a number, perhaps with its unit, in brackets or with a sign, in the notation of the language.

    Any other text stays as it is.
    """
    return localized(text) if _FIGURE.fullmatch(text) else text


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
    """Return the catalogue of a language, of all the files in its folder.

    Args:
        name: Two letters, such as "pt".
    """
    messages: dict[str, str] = {}
    for path in sorted(Path(__file__).with_name(name).glob("*.json")):
        messages |= json.loads(path.read_text(encoding="utf8"))
    return Catalogue(messages)

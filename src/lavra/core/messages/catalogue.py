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

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lavra.core.messages.layout import GAP, RULE, columns_of, indent_of, parted, rows_of, ruled_rows
from lavra.core.messages.template import FIGURE, PLACE, Template

LANGUAGE = "LAVRA_LANG"
"""Name of the environment variable that chooses the language; without it the locale does."""

_VARIABLES = (LANGUAGE, "LC_ALL", "LC_MESSAGES", "LANG")
"""Environment variables that name a language, the first that is set decides."""

_ENGLISH = "en"

_CLAUSE = re.compile(r"(; | · |\. (?=[A-Z]))")
_ITEM = re.compile(r"(, )")
"""What divides the phrases of a message that is made of several, and the items of a list of phrases."""

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_EXPLAINED = re.compile(r"(.+?) \((.*)\)")
"""A phrase, and more about it in brackets."""

_WORD = re.compile("[A-Za-z]{3}")


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
        columns = columns_of(lines)
        rows = ruled_rows(lines, columns) if columns else rows_of(lines)
        if columns:
            done += catalogue.ruled_table(lines[:rows], columns)
        else:
            done += catalogue.table(lines[:rows]) if rows > 1 else [catalogue.line(lines[0])]
        del lines[: max(rows, 1)]
    return "\n".join(done)


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
            key=lambda one: (not _WORD.match(one.english), -len(PLACE.sub("", one.english)), len(one.places)),
        )
        self._patterns = [(one.anchor, one) for one in ordered if one.places]
        self._spaced = [(anchor, one) for anchor, one in self._patterns if GAP.search(one.english)]

    def line(self, line: str) -> str:
        """Return one line in the language; as it is where there is no template for it, nor for each of its phrases."""
        text = line.strip()
        return indent_of(line) + (self.phrase(text) or self._phrases(text, _CLAUSE) or text)

    def spaced(self, line: str) -> str | None:
        """Return a line for which there is a template with gaps of its own, which keep its columns; else None."""
        new = self._made(line.strip(), self._spaced) if GAP.search(line) else None
        return None if new is None else indent_of(line) + new

    def table(self, lines: list[str]) -> list[str]:
        """Return the rows of a table with their titles and numbers in the language, and the columns below each other.

        Args:
            lines: The rows, with the same indent, whose columns are divided by gaps of two spaces or more.
        """
        indent = min(map(indent_of, lines), key=len)
        rows = [parted(line.rstrip()[len(indent) :]) for line in lines]
        titles = [self.phrase(title) or title for title, _ in rows]
        wide, wider = max(len(title) for title, _ in rows), max(map(len, titles))
        starts = {len(title) + len(cells[0][0]) for title, cells in rows}
        ends = {len(title) + len("".join(cells[0])) for title, cells in rows}
        right = len(starts) > 1 or (len(ends) == 1 and any(FIGURE.fullmatch(cells[0][1]) for _, cells in rows))
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
        shown = [indent_of(lines[1])] * len(lines)
        for number, (start, end) in enumerate(columns):
            cells = [row[number] for row in new]
            width = max(end - start, *map(len, cells))
            old = [row[number] for row in rows if row[number].strip()]
            full = all(len(cell) == end - start and not cell.endswith(" ") for cell in old)
            left = not any(cell.startswith(" ") for cell in old) and not (full and any(map(FIGURE.fullmatch, old)))
            cells[1] = RULE * width
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
                return PLACE.sub(lambda place, values=values: values[place[1]], template.translated)
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
        if len(parts) == 1 or not found or (not some and not all(map(FIGURE.fullmatch, unknown))):
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


def _figure(text: str) -> str:
    """Return a number, perhaps with its unit, in brackets or with a sign, in the notation of the language.

    Any other text stays as it is.
    """
    return localized(text) if FIGURE.fullmatch(text) else text


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

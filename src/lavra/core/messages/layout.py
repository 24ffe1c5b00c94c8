"""Where the rows and the columns of a table lie in lines of text."""

from __future__ import annotations

import itertools
import re

GAP = re.compile(r"(?<=\S)  +(?=\S)")
"""The gap between two columns of a table."""

RULE = "─"
"""What the line below the titles of a table is made of."""


def columns_of(lines: list[str]) -> list[tuple[int, int]]:
    """Return where the columns of a table begin and end, by the rule below its titles; nothing for other lines."""
    rule = lines[1] if len(lines) > 1 else ""
    return [part.span() for part in re.finditer(f"{RULE}+", rule)] if set(rule) == {" ", RULE} else []


def ruled_rows(lines: list[str], columns: list[tuple[int, int]]) -> int:
    """Return how many of the lines, from the first, keep to the columns of a table."""
    gaps = [(0, columns[0][0]), *((end, start) for (_, end), (start, _) in itertools.pairwise(columns))]
    count = 0
    while count < len(lines) and lines[count].strip():
        line = lines[count]
        if any(line[start:end].strip() for start, end in gaps) or line[columns[-1][1] :].strip():
            break
        count += 1
    return count


def rows_of(lines: list[str]) -> int:
    """Return how many of the lines, from the first, are rows of one table: columns with gaps, and the same indent.

    The first row may be titles, which begin further to the right because that of the first column is empty.
    """
    count = int(len(lines) > 1 and len(indent_of(lines[0])) > len(indent_of(lines[1])) and bool(GAP.search(lines[0])))
    indent = indent_of(lines[count])
    while count < len(lines) and GAP.search(lines[count]) and indent_of(lines[count]) == indent:
        count += 1
    return count


def indent_of(line: str) -> str:
    """Return the spaces with which a line begins."""
    return line[: len(line) - len(line.lstrip())]


def parted(line: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the first cell of a row, which may be empty, and the other cells with the spaces before each."""
    cells = re.findall(r"( *)(\S+(?: \S+)*)", line)
    return ("", cells) if line.startswith(" ") else (cells[0][1], cells[1:])

"""Plain tables for the terminal and for pipes: aligned columns, no colour, nothing cut off."""

from __future__ import annotations

from collections.abc import Sequence

from lavra.core.terminal import printable


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return an aligned table, two spaces between columns.

    Args:
        headers: one title per column.
        rows: the cells, as text.
        left: how many of the first columns hold words, aligned left; the others hold numbers, aligned right.
    """
    lines = [[printable(cell) for cell in line] for line in (headers, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    lines.insert(1, ["─" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )

"""Sections of what a classifier takes for what: the confusion matrix, and the pairs that are most often confused."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from lavra.evaluation.labels.confusions import ConfusedPair, confused_pairs, confusion
from lavra.reports.labels.record import LabelRecord
from lavra.reports.page import Section, Table

MOST_CLASSES = 20
"""Number of classes up to which the whole matrix is shown; of more, only the most confused pairs."""

_CELL = 46  # pixels of a cell, of the margin above, and of a letter of a name
_TOP = 74
_NARROWEST = 300
_LETTER = 6.2
_LONGEST = 22  # letters of a name that are shown
_MOST_PAIRS = 15
_QUOTED = 160  # characters of an example


def confusion_section(record: LabelRecord) -> Section:
    """Return the section of the confusions of a classifier; it is empty for other predictions."""
    table = record.table
    if table.kind not in ("classes", "ordinal") or not table.known.any():
        return Section("Confusion matrix")
    counts = confusion(table)
    pairs = [_line(record, one, table.classes) for one in confused_pairs(counts, _MOST_PAIRS)]
    headers = ["it is", "the model says", "for example", "rows", "of the rows that are it"]
    tables = [Table(headers, pairs, words=3)] if pairs else []
    whole = len(table.classes) <= MOST_CLASSES
    sentence = "" if whole else f"{len(table.classes):,} classes are too many for a matrix."
    return Section(
        "Confusion matrix" if whole else "Most confused classes",
        sentence if pairs else "No row is confused with another class.",
        tables=tables,
        pictures=[confusion_picture(counts, table.classes)] if whole else (),
        note="A line of the matrix is a class, a column what the model says of its rows; a cell is the darker the "
        "larger its share of the line, and holds the number of rows." * whole,
    )


def _line(record: LabelRecord, pair: ConfusedPair, classes: Sequence[str]) -> list[str]:
    example = _example(record, pair.truth, pair.said)
    return [classes[pair.truth], classes[pair.said], example, f"{pair.rows:,}", f"{pair.share:.1%}"]


def _example(record: LabelRecord, truth: int, said: int) -> str:
    """Return the beginning of the first text that is one class and was taken for another."""
    rows = np.flatnonzero(record.table.known)
    known = record.table.select(rows)
    first = int(rows[int(((known.truth() == truth) & (known.decisions() == said)).argmax())])
    text = " ".join(record.text(first).split())
    return text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"


def confusion_picture(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Return the confusion matrix as SVG, with shades by the share of the line and the counts as text.

    Args:
        counts: Rows of each class (row) that were predicted as each class (column), (K, K).
        classes: Names of the classes.
    """
    names = [_short(name) for name in classes]
    left = 24 + max(len(name) for name in names) * _LETTER
    above = _TOP + max(0, max(len(name) for name in names) * _LETTER * 0.6 - 20)
    width, height = max(_NARROWEST, left + _CELL * len(names) + 60), above + _CELL * len(names) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="Confusion matrix" style="max-width: {1.3 * width:.0f}px">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        '<text x="8" y="18" font-weight="bold" font-size="13">Confusion matrix</text>',
        f'<text x="{left:.1f}" y="36" fill="#444444">the model says</text>',
        f'<text x="{left - 8:.1f}" y="{above - 8:.1f}" text-anchor="end" fill="#444444">it is</text>',
    ]
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    for number, name in enumerate(names):
        x, y = left + (number + 0.4) * _CELL, above + (number + 0.5) * _CELL + 4
        parts.append(f'<text transform="translate({x:.1f} {above - 6:.1f}) rotate(-35)">{escape(name)}</text>')
        parts.append(f'<text x="{left - 8:.1f}" y="{y:.1f}" text-anchor="end">{escape(name)}</text>')
        for column in range(len(names)):
            share, count = float(shares[number, column]), int(counts[number, column])
            told = f"{classes[number]} taken for {classes[column]}: {count:,} rows, {share:.1%}"
            parts += _cell(left + column * _CELL, above + number * _CELL, share, count, told, number == column)
    return "\n".join([*parts, "</svg>"])


def _cell(x: float, y: float, share: float, count: int, told: str, right: bool) -> list[str]:
    colour = "#225588" if right else "#cc5522"
    ink = "white" if share > 0.55 else "#222222"
    square = (
        f'<g><title>{escape(told)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{_CELL}" height="{_CELL}" '
        f'fill="{colour}" fill-opacity="{share:.3f}" stroke="#dddddd"/></g>'
    )
    if not count:
        return [square]
    words = f'<text x="{x + _CELL / 2:.1f}" y="{y + _CELL / 2 + 4:.1f}" text-anchor="middle" fill="{ink}">'
    return [square, f"{words}{count:,}</text>"]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"

"""Bars with intervals as SVG, for a number beside its yardsticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _ROW, _LABEL, _VALUE = 640, 24, 150, 170


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: before it.
        value: its length, 0 or more.
        low: lower end of its interval; None for none.
        high: upper end of its interval; None for none.
        strong: the bar that the others are there for.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    strong: bool = False


def bar_plot(title: str, bars: Sequence[Bar]) -> str:
    """Return an SVG with a bar for each, the shortest first; all begin at 0. Empty without bars."""
    if not bars:
        return ""
    longest = max([one.value for one in bars] + [one.high or 0.0 for one in bars]) or 1.0
    height = 34 + _ROW * len(bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="4" y="18" font-weight="bold" font-size="13">{escape(title)}</text>',
    ]
    for number, one in enumerate(sorted(bars, key=lambda bar: bar.value)):
        parts += _bar(one, 30 + number * _ROW, (_WIDTH - _LABEL - _VALUE) / longest)
    return "\n".join([*parts, "</svg>"])


def _bar(one: Bar, y: int, scale: float) -> list[str]:
    colour, weight = ("#225588", "bold") if one.strong else ("#b8c4d0", "normal")
    middle = y + _ROW / 2
    known = one.low is not None and one.high is not None
    written = f"{one.value:.4f}" + (f"  [{one.low:.4f}, {one.high:.4f}]" if known else "")
    parts = [
        f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end" font-weight="{weight}">{escape(one.name)}</text>',
        f'<rect x="{_LABEL}" y="{y + 4}" width="{one.value * scale:.1f}" height="{_ROW - 8}" fill="{colour}"/>',
    ]
    end = max(one.value, one.high or 0.0)
    if one.low is not None and one.high is not None:
        low, high = _LABEL + one.low * scale, _LABEL + one.high * scale
        ends = "".join(f"M{x:.1f} {middle - 4}v8" for x in (low, high))
        parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}{ends}" stroke="black"/>')
    parts.append(f'<text x="{_LABEL + end * scale + 6:.1f}" y="{middle + 4}" font-weight="{weight}">{written}</text>')
    return parts

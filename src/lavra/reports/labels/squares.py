"""Square plots with two axes of numbers: points, their intervals, and the line on which both axes are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lavra.reports.plots import ticks

_SIDE = 300  # pixels of the square, and of the margins around it
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 34, 48


@dataclass(frozen=True)
class Point:
    """A point of a plot.

    Attributes:
        x: Its place on the horizontal axis.
        y: Its place on the vertical axis.
        low: Lower end of the interval of y; None without one.
        high: Upper end of the interval of y; None without one.
        size: Radius in pixels.
        told: What is told of it when the pointer rests on it.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    size: float = 2.0
    told: str = ""


def square_plot(
    title: str,
    points: Sequence[Point],
    x: tuple[str, float, float],
    y: tuple[str, float, float],
    *,
    lines: Sequence[tuple[float, float, float, float]] = (),
    faint: bool = False,
) -> str:
    """Return a plot of points as SVG; an empty string without points.

    Args:
        title: Title above the plot.
        points: The points.
        x: Title, lower and upper end of the horizontal axis.
        y: Title, lower and upper end of the vertical axis.
        lines: Grey lines, each from (x, y) to (x, y).
        faint: Whether points let others shine through, for many of them.

    Examples:
        >>> svg = square_plot("Demo", [Point(0.5, 0.5)], ("x", 0, 1), ("y", 0, 1), lines=[(0, 0, 1, 1)])
        >>> svg.count("<circle"), svg.count("stroke-dasharray")
        (1, 1)
    """
    if not points:
        return ""
    width, height = _LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM
    across = lambda value: _LEFT + (value - x[1]) / (x[2] - x[1]) * _SIDE  # noqa: E731
    up = lambda value: _TOP + _SIDE - (value - y[1]) / (y[2] - y[1]) * _SIDE  # noqa: E731
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="{escape(title)}" style="max-width: {round(1.3 * width)}px">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-weight="bold" font-size="13">{escape(title)}</text>',
        f'<text x="{_LEFT + _SIDE}" y="{_TOP + _SIDE + 38}" text-anchor="end" fill="#444444">{escape(x[0])}</text>',
        f'<text transform="translate(14 {_TOP}) rotate(-90)" text-anchor="end" fill="#444444">{escape(y[0])}</text>',
    ]
    for value in ticks(y[1], y[2], 6):
        parts.append(f'<path d="M{_LEFT} {up(value):.1f}h{_SIDE}" stroke="#e4e4e4"/>')
        parts.append(_number(_LEFT - 6, up(value) + 4, value, "end"))
    for value in ticks(x[1], x[2], 6):
        parts.append(f'<path d="M{across(value):.1f} {_TOP + _SIDE}v4" stroke="#888888"/>')
        parts.append(_number(across(value), _TOP + _SIDE + 16, value, "middle"))
    parts.append(f'<path d="M{_LEFT} {_TOP}v{_SIDE}h{_SIDE}" fill="none" stroke="#888888"/>')
    for one in lines:
        path = f"M{across(one[0]):.1f} {up(one[1]):.1f}L{across(one[2]):.1f} {up(one[3]):.1f}"
        parts.append(f'<path d="{path}" stroke="#888888" stroke-dasharray="4 3"/>')
    for one in points:
        if one.low is not None and one.high is not None:
            path = f"M{across(one.x):.1f} {up(one.low):.1f}V{up(one.high):.1f}"
            parts.append(f'<path d="{path}" stroke="#225588" stroke-opacity="0.6"/>')
        dot = f'<circle cx="{across(one.x):.1f}" cy="{up(one.y):.1f}" r="{one.size:.1f}" fill="#225588"'
        dot = f'{dot} fill-opacity="{0.4 if faint else 1}"/>'
        parts.append(f"<g><title>{escape(one.told)}</title>{dot}</g>" if one.told else dot)
    return "\n".join([*parts, "</svg>"])


def _number(x: float, y: float, value: float, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#444444">{value:.4g}</text>'

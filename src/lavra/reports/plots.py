"""Plots as SVG: small, without a plotting library, readable in print and by screen readers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from lavra.core.units import show_count

WIDTH = 640
"""Size of a line plot in pixels, without additional rows of the legend."""
HEIGHT = 300

_LEFT = 62  # margins around the data, in pixels
_RIGHT = 14
_TOP = 34
_BOTTOM = 58
COLOURS = ("#225588", "#cc5522", "#338844", "#884499", "#996600", "#117788", "#aa3355", "#555555")
"""Colours of the series, which differ on a screen and in print; the ninth series uses the first one again."""

_MOST_POINTS = 800  # points of a series that are drawn: there are fewer pixels than that
_NAMES = 4
"""Number of names in a row of the legend, and height of such a row in pixels."""
_NAME_HEIGHT = 16


@dataclass(frozen=True)
class Series:
    """One line of a plot.

    Attributes:
        name: Name in the legend.
        points: Points (x, y) in ascending order of x; a y that is None or not finite leaves a gap in the line.
        dots: Whether every point is marked with a dot, for series of few points.
        faint: Whether the line is thin and pale, and drawn behind the others.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    dots: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    Attributes:
        label: Quantity with its unit.
        show: Function that returns a value as text.
        logarithmic: Whether the scale is logarithmic; values that are not above 0 are then omitted.
    """

    label: str
    show: Callable[[float], str] = show_count
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return the position of a value on the axis, before it is scaled to pixels."""
        return math.log10(value) if self.logarithmic else value

    def has(self, value: float | None) -> bool:
        """Return whether a value can be placed on the axis."""
        return value is not None and math.isfinite(value) and (not self.logarithmic or value > 0)


@dataclass(frozen=True)
class _Frame:
    """Rectangle of the data, and the mapping from values to pixels."""

    x: Axis
    y: Axis
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]

    def across(self, value: float) -> float:
        low, high = self.x_ends
        return _LEFT + (self.x.place(value) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        low, high = self.y_ends
        return HEIGHT - _BOTTOM - (self.y.place(value) - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def line_plot(title: str, series: Sequence[Series], x: Axis, y: Axis, *, marks: Sequence[float] = ()) -> str:
    """Return a line plot as SVG; an empty string if no series has a point.

    Args:
        title: Title above the plot.
        series: Lines; the first `len(COLOURS)` of them have different colours.
        x: Horizontal axis.
        y: Vertical axis.
        marks: Values of x that are marked with a small red tick, such as skipped steps.

    Examples:
        >>> svg = line_plot("Loss", [Series("loss", [(0, 4.0), (1, 3.0)])], Axis("step"), Axis("nats"))
        >>> svg.startswith("<svg"), svg.count("<polyline")
        (True, 1)
    """
    drawn = [one for one in series if any(x.has(across) and y.has(up) for across, up in one.points)]
    if not drawn:
        return ""
    every = [
        (across, up) for one in drawn for across, up in one.points if x.has(across) and up is not None and y.has(up)
    ]
    frame = _Frame(
        x, y, _ends([x.place(point[0]) for point in every], 0.0), _ends([y.place(up) for _, up in every], 0.05)
    )
    lines = [(one, COLOURS[number % len(COLOURS)]) for number, one in enumerate(drawn)]
    height = HEIGHT + (len(lines) - 1) // _NAMES * _NAME_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-weight="bold" font-size="13">{escape(title)}</text>',
        *_grid(frame),
        *(
            part
            for one, colour in sorted(lines, key=lambda line: not line[0].faint)
            for part in _line(one, colour, frame)
        ),
        *_marks(marks, frame),
        *_legend(lines),
        "</svg>",
    ]
    return "\n".join(parts)


def thinned(
    points: Sequence[tuple[float, float | None]], limit: int = _MOST_POINTS
) -> list[tuple[float, float | None]]:
    """Return a selection of points that keeps every spike: the lowest and the highest of each of `limit` / 2 intervals.

    Args:
        points: Points (x, y) in ascending order of x.
        limit: Approximate largest number of points to return; fewer points are returned unchanged.
    """
    # Min-max decimation: unlike averaging, it keeps the extremes.
    if len(points) <= limit:
        return list(points)
    kept: list[tuple[float, float | None]] = []
    stretches = limit // 2
    for number in range(stretches):
        stretch = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        known = [point for point in stretch if point[1] is not None]
        if not known:
            kept.append(stretch[0])
            continue
        ends = {min(known, key=lambda point: point[1] or 0.0), max(known, key=lambda point: point[1] or 0.0)}
        kept += sorted(ends)
    return kept


def ticks(low: float, high: float, limit: int = 6) -> list[float]:
    """Return round numbers from `low` to `high` for the labels of an axis.

    They are 1, 2 or 5 times a power of ten apart ("nice numbers", Heckbert 1990, Graphics Gems).

    Args:
        low: Lower end of the axis.
        high: Upper end of the axis, above `low`.
        limit: Approximate largest number of labels.

    Examples:
        >>> ticks(0, 10)
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    rough = (high - low) / limit
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _ends(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Return the ends of an axis: the range of the values plus a margin, never of width 0."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(1.0, abs(high)):
        room = abs(high) * 0.1 or 1.0
        return low - room, high + room
    return low - margin * (high - low), high + margin * (high - low)


def _axis_ticks(axis: Axis, ends: tuple[float, float], limit: int) -> list[float]:
    """Return the values at which an axis is labelled."""
    if not axis.logarithmic:
        return ticks(*ends, limit)
    powers = [10.0**power for power in range(math.ceil(ends[0]), math.floor(ends[1]) + 1)]
    if len(powers) >= 2:
        return powers[:: -(-len(powers) // limit)]
    low, high = 10 ** ends[0], 10 ** ends[1]
    return [value for value in ticks(low, high, limit) if value > 0]


def _grid(frame: _Frame) -> Iterator[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value in _axis_ticks(frame.y, frame.y_ends, 8):
        y = frame.up(value)
        yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>'
        yield _words(_LEFT - 6, y + 4, frame.y.show(value), "end")
    for value in _axis_ticks(frame.x, frame.x_ends, 9):
        x = frame.across(value)
        yield f'<path d="M{x:.1f} {bottom}v4" stroke="#888888"/>'
        yield _words(x, bottom + 16, frame.x.show(value), "middle")
    yield f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#888888"/>'
    yield _words(right, bottom + 30, frame.x.label, "end")
    yield _words(right, 18, frame.y.label, "end")


def _words(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#444444">{escape(text)}</text>'


def _line(one: Series, colour: str, frame: _Frame) -> Iterator[str]:
    """Yield a polyline for each part of a series without a gap; a part of a single point is a dot."""
    style = 'stroke-width="1" stroke-opacity="0.55"' if one.faint else 'stroke-width="1.6"'
    stretch: list[str] = []
    for across, up in [*thinned(one.points), (math.nan, None)]:
        if up is not None and frame.y.has(up) and frame.x.has(across):
            x, y = f"{frame.across(across):.1f}", f"{frame.up(up):.1f}"
            stretch.append(f"{x},{y}")
            if one.dots:
                yield f'<circle cx="{x}" cy="{y}" r="2.4" fill="{colour}"/>'
            continue
        if len(stretch) == 1:
            x, _, y = stretch[0].partition(",")
            yield f'<circle cx="{x}" cy="{y}" r="1.6" fill="{colour}"/>'
        elif stretch:
            yield f'<polyline points="{" ".join(stretch)}" fill="none" stroke="{colour}" {style}/>'
        stretch = []


def _marks(places: Sequence[float], frame: _Frame) -> Iterator[str]:
    for place in places:
        if frame.x.has(place) and frame.x_ends[0] <= frame.x.place(place) <= frame.x_ends[1]:
            yield f'<path d="M{frame.across(place):.1f} {HEIGHT - _BOTTOM}v-8" stroke="#cc0000" stroke-width="1.5"/>'


def _legend(lines: Sequence[tuple[Series, str]]) -> Iterator[str]:
    """Yield the legend below the plot: the names of the lines, several in each row."""
    if len(lines) < 2:
        return
    wide = (WIDTH - _LEFT) / min(_NAMES, len(lines))
    room = int((wide - 24) / 6)
    for number, (one, colour) in enumerate(lines):
        x, y = _LEFT + number % _NAMES * wide, HEIGHT - 10 + number // _NAMES * _NAME_HEIGHT
        name = one.name if len(one.name) <= room else one.name[: room - 1] + "…"
        yield f'<path d="M{x:.1f} {y - 4}h14" stroke="{colour}" stroke-width="2"/>'
        yield f'<text x="{x + 18:.1f}" y="{y}">{escape(name)}<title>{escape(one.name)}</title></text>'


_WIDTH = 640  # bar plots: pixels of the plot, a row, the names and the values
_ROW = 24
_LABEL = 150
_VALUE = 170


@dataclass(frozen=True)
class Bar:
    """One bar of a bar plot.

    Attributes:
        name: Name before the bar.
        value: Length of the bar, 0 or more.
        low: Lower end of the confidence interval; None without one.
        high: Upper end of the confidence interval; None without one.
        strong: Whether the bar is highlighted, because the others are shown for comparison with it.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    strong: bool = False


def bar_plot(title: str, bars: Sequence[Bar]) -> str:
    """Return a bar plot as SVG, with the shortest bar first and all bars starting at 0; an empty string without bars.

    Args:
        title: Title above the plot.
        bars: Bars in any order.
    """
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

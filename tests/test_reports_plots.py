"""Plots of lines and bars as SVG: places, ticks, gaps and thinning."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.reports.plots import HEIGHT, WIDTH, Axis, Bar, Series, bar_plot, line_plot, thinned, ticks

X = Axis("tokens")
Y = Axis("nats", "{:g}".format)
LOG = Axis("norm", "{:g}".format, logarithmic=True)


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in found]


def test_a_line_goes_through_its_points_and_fills_the_width() -> None:
    svg = line_plot("title", [Series("a", [(0, 4.0), (50, 3.0), (100, 2.0)])], X, Y)
    ElementTree.fromstring(svg)
    (line,) = polylines(svg)
    assert line[0][0] < line[1][0] < line[2][0] <= WIDTH
    assert line[1][0] == pytest.approx((line[0][0] + line[2][0]) / 2, abs=0.11)
    assert line[1][1] == pytest.approx((line[0][1] + line[2][1]) / 2, abs=0.11)
    assert 0 < line[0][1] < line[2][1] < HEIGHT  # places grow downwards
    labels = re.findall(r">([^<>]+)</text>", svg)
    assert {"title", "tokens", "nats", "2", "3", "4"} <= set(labels)


def test_a_logarithmic_axis_gives_equal_room_to_equal_factors_and_leaves_zero_out() -> None:
    svg = line_plot("t", [Series("a", [(0, 0.0), (1, 0.01), (2, 0.1), (3, 1.0)])], X, LOG)
    (line,) = polylines(svg)
    assert len(line) == 3
    assert line[0][1] - line[1][1] == pytest.approx(line[1][1] - line[2][1], abs=0.11)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_what_is_no_number_leaves_a_gap(bad: float | None) -> None:
    svg = line_plot("t", [Series("a", [(0, 1.0), (1, 2.0), (2, bad), (3, 2.0), (4, 1.0)])], X, Y)
    assert [len(line) for line in polylines(svg)] == [2, 2]
    assert "nan" not in svg
    assert "inf" not in svg


def test_nothing_to_draw_is_no_plot_and_a_single_or_constant_value_is_one() -> None:
    assert line_plot("t", [Series("a", []), Series("b", [(1, None)])], X, Y) == ""
    assert "<circle" in line_plot("t", [Series("a", [(5, 2.0)])], X, Y)
    assert len(polylines(line_plot("t", [Series("a", [(0, 2.0), (1, 2.0)])], X, Y))) == 1
    assert polylines(line_plot("t", [Series("a", [(0, 0.0), (1, 0.0)])], X, Y))
    ((above, below),) = polylines(line_plot("t", [Series("a", [(0, 5.0), (1, 0.0)])], X, Y))
    assert above[1] < below[1] < HEIGHT - 40


def test_names_are_escaped_and_marks_lie_within_the_plot() -> None:
    series = [Series("<b>&", [(0, 1.0), (10, 2.0)]), Series("c", [(0, 1.0), (10, 2.0)])]
    svg = line_plot("<i>", series, X, Y, marks=[5.0, 11.0])
    ElementTree.fromstring(svg)
    assert "<b>" not in svg
    assert svg.count("#cc0000") == 1


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=300), st.integers(4, 60))
def test_thinning_keeps_the_order_and_the_extremes(values: list[float | None], limit: int) -> None:
    points = [(float(number), value) for number, value in enumerate(values)]
    kept = thinned(points, limit)
    assert len(kept) <= max(limit, 4)
    assert [place for place, _ in kept] == sorted({place for place, _ in kept})
    assert set(kept) <= set(points)
    known = [value for value in values if value is not None]
    if known:
        seen = [value for _, value in kept if value is not None]
        assert (min(seen), max(seen)) == (min(known), max(known))


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(3, 9))
def test_ticks_are_even_round_and_within(low: float, width: float, limit: int) -> None:
    if width < abs(low) * 1e-9:
        return
    found = ticks(low, low + width, limit)
    assert 1 <= len(found) <= limit + 1
    room = 1e-6 * width
    assert all(low - room <= value <= low + width + room for value in found)


def test_many_lines_get_a_legend_of_several_rows() -> None:
    svg = line_plot("t", [Series(f"run {number}", [(0, 1.0), (1, 2.0)]) for number in range(9)], X, Y)
    ElementTree.fromstring(svg)
    places = re.findall(r'<text x="([\d.]+)" y="(\d+)">run', svg)
    assert len(set(places)) == 9
    assert f'viewBox="0 0 {WIDTH} {max(int(y) for _, y in places) + 10}"' in svg


def test_bars_are_ranked_and_as_long_as_their_values() -> None:
    svg = bar_plot("bits", [Bar("uniform", 4.0), Bar("model", 2.0, 1.9, 2.2, strong=True), Bar("<xz>", 3.0)])
    ElementTree.fromstring(svg)
    widths = [float(width) for width in re.findall(r'<rect x="150"[^>]* width="([\d.]+)"', svg)]
    assert widths == sorted(widths)
    assert widths[0] == pytest.approx(widths[2] / 2, abs=0.11)
    assert "2.0000  [1.9000, 2.2000]" in svg
    assert "&lt;xz&gt;" in svg
    assert bar_plot("bits", []) == ""

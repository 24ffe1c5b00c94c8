"""Rows are measured as far as the time allows, each once, and a sentence says on how many."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from lavra.tasks.base import Measured
from lavra.tasks.text_parts import in_part, said_in_time
from lavra.training.deadline import Deadline


def measured(count: int, seconds_each: float, end: float | None) -> tuple[list[Any], list[Any], list[int]]:
    """Return the rows that were measured, what was said of them, and the sizes of the parts; the clock is made up."""
    now, sizes = [0.0], list[int]()

    def say(rows: Sequence[Any]) -> list[str]:
        sizes.append(len(rows))
        now[0] += seconds_each * len(rows)
        return [f"said of {row[0]}" for row in rows]

    deadline = None if end is None else Deadline(end, lambda: now[0])
    rows: list[Any] = [[number] for number in range(count)]
    found, said = said_in_time(SimpleNamespace(deadline=deadline), rows, say)  # type: ignore[arg-type]
    return [row[0] for row in found], said, sizes


@pytest.mark.parametrize("end", [None, 1e9])
def test_with_enough_time_all_rows_are_measured_once_and_stay_in_order(end: float | None) -> None:
    rows, said, sizes = measured(1000, 0.01, end)
    assert rows == list(range(1000))
    assert said == [f"said of {number}" for number in range(1000)]
    assert sum(sizes) == 1000


def test_with_little_time_some_are_drawn_and_none_is_measured_twice() -> None:
    rows, said, sizes = measured(1000, 1.0, 200.0)
    assert 150 <= len(rows) <= 200
    assert rows == sorted(set(rows))
    assert rows[-1] > 500  # drawn from all of them, and not the first ones
    assert sum(sizes) == len(rows) == len(said)


def test_without_any_time_a_few_rows_are_measured_all_the_same() -> None:
    assert len(measured(1000, 1.0, 0.0)[0]) == 31
    assert len(measured(20, 1.0, 0.0)[0]) == 8
    assert len(measured(3, 1.0, 0.0)[0]) == 3
    assert measured(0, 1.0, 0.0)[0] == []


def test_the_table_says_on_how_many_rows() -> None:
    whole = Measured({}, "F1 0.5")
    assert in_part(whole, 8, 8, "sentence") is whole
    assert "on 8 of 1,176 sentences, drawn at random" in in_part(whole, 8, 1176, "sentence").table

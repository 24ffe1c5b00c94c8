"""What is told at the end of a run."""

from __future__ import annotations

import pytest

from lavra.workflows.training.finish import speed_after


def _lines(speeds: list[float]) -> list[dict[str, float | str]]:
    return [
        {"step": step, "split": "train", "tokens": 100 * step, "tokens_per_second": speed}
        for step, speed in enumerate(speeds, start=1)
    ]


def test_the_speed_is_that_of_the_steps_after_the_probe() -> None:
    assert speed_after(_lines([1000.0] * 50 + [100.0, 200.0]), 50) == pytest.approx(200 / (1.0 + 0.5))
    assert speed_after(_lines([1000.0] * 5), 5) == pytest.approx(1000.0)  # nothing came after it
    validation = {"step": 51, "split": "validation", "tokens": 9_999_999}
    assert speed_after([*_lines([10.0] * 3), validation], 0) == pytest.approx(10.0)
    assert speed_after([], 3) is None

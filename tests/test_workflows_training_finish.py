"""What is told at the end of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lavra.workflows.training.finish import _to_compare, speed_after
from plans import a_plan


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


@pytest.mark.parametrize(("steps", "compared"), [(6, False), (7, True)])
def test_a_speed_that_was_forecast_from_all_steps_does_not_grade_itself(steps: int, compared: bool) -> None:
    """Six steps are timed, of which the first is left out of the probe."""
    plan = replace(a_plan(), probe={"steps": 5.0}, forecast={"tokens_per_second": 1000.0, "seconds": 9.0})
    expected = {"seconds", "tokens_per_second"} if compared else {"seconds"}
    assert set(_to_compare(plan, _lines([1000.0] * steps))) == expected

"""A learning curve finds the law by which its points were made, and covers what it is followed to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lavra.core.errors import InputError
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.learning_curve import fit_curve, learning_curve
from lavra.evaluation.labels.predictions import Predictions, one_hot

SIZES = np.array([100, 200, 400, 800, 1600])


def tables(floor: float = 0.05, scale: float = 3.0, power: float = 0.5, rows: int = 3000, seed: int = 0):
    """Predictions of models whose error rate follows the law, right on the same easy rows."""
    random = np.random.default_rng(seed)
    truth, hard = random.integers(0, 2, rows), random.random(rows)
    found = []
    for size in SIZES:
        wrong = hard < floor + scale * float(size) ** -power
        said = np.where(wrong, 1 - truth, truth)
        found.append(Predictions(range(rows), one_hot(truth, 2), 0.8 * one_hot(said, 2) + 0.1, "ab"))
    return found


def test_the_law_of_the_points_is_found() -> None:
    curve = learning_curve(SIZES, tables(), "accuracy")
    wanted = 1 - (0.05 + 3 * 3200**-0.5)
    estimate = curve.at(3200)
    assert estimate.value == pytest.approx(wanted, abs=0.012)
    assert estimate.low < wanted < estimate.high
    assert curve.more(1600).value == pytest.approx(3 * (1600**-0.5 - 3200**-0.5), abs=0.006)
    assert curve.labels == 1600
    assert curve.to_json()["points"][0]["labels"] == 100


def test_the_order_of_the_sizes_does_not_matter() -> None:
    order = [3, 1, 4, 0, 2]
    given = tables()
    one = learning_curve(SIZES, given, "accuracy")
    two = learning_curve(SIZES[order], [given[place] for place in order], "accuracy")
    assert one.at(5000) == two.at(5000)


def test_more_labels_never_promise_a_loss_and_nothing_where_nothing_was_gained() -> None:
    flat = np.full(5, 0.8)
    curve = fit_curve(SIZES, flat, np.tile(flat, (20, 1)), "accuracy", 100)
    assert curve.more(1000).value == pytest.approx(0, abs=0.006)
    assert curve.more(1000).low == pytest.approx(0, abs=0.001)
    falling = np.array([0.9, 0.85, 0.8, 0.78, 0.75])
    assert fit_curve(SIZES, falling, np.tile(falling, (20, 1)), "accuracy", 100).more(1000).value >= 0


def test_losses_fall_along_the_curve() -> None:
    losses = 0.2 + 4 * SIZES**-0.5
    curve = fit_curve(SIZES, losses, np.tile(losses, (20, 1)), "log_loss", 100)
    assert curve.at(6400).value == pytest.approx(0.25, abs=0.01)
    assert curve.more(4800).value == pytest.approx(0.05, abs=0.01)
    assert curve.sentence(4800).startswith("4,800 more labels would bring -0.0")
    assert "in log_loss" in curve.sentence(4800)


def test_fewer_sizes_say_less_and_two_are_refused() -> None:
    given = tables()
    wide, narrow = (learning_curve(SIZES[-count:], given[-count:], "accuracy") for count in (3, 5))
    assert width(wide.more(1600)) > width(narrow.more(1600))
    with pytest.raises(InputError, match="at least 3 different numbers of labels"):
        learning_curve(SIZES[:2], given[:2], "accuracy")


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.high - estimate.low


def test_the_fewer_rows_a_model_will_be_measured_on_the_wider_is_its_forecast() -> None:
    curve = learning_curve(SIZES, tables(), "accuracy")
    many, few = curve.at(3200, rows=100_000), curve.at(3200, rows=100)
    assert width(few) > 2 * width(many)
    assert few.value == many.value == curve.at(3200).value
    assert width(curve.at(3200, level=0.5)) < width(curve.at(3200))


# Calibration: whatever the law, an interval covers about as often as it says.


def made_up_law(random: np.random.Generator, last: float) -> Callable[[Any], Any]:
    """An error that falls with the number of labels, of which two in three follow no law of a power."""
    error, floor, power = random.uniform(0.03, 0.35), random.uniform(0, 0.95), random.uniform(0.15, 1.0)
    shapes = (
        lambda size: (size / last) ** -power,
        lambda size: ((size + last / 10) / (1.1 * last)) ** -power,
        lambda size: 0.1 + 0.8 * (size / last) ** -0.4 + 0.1 * np.exp(3 - 3 * size / last),
    )
    shape = shapes[int(random.integers(3))]
    return lambda size: error * (floor + (1 - floor) * shape(size) / shape(last))


def covered(seed: int, rows: int = 700, noise: float = 0.03) -> list[bool]:
    """Whether 90 % intervals hold the true error, the true gain of more labels, and a score on 200 new rows."""
    random, sizes = np.random.default_rng(seed), np.array([100.0, 200.0, 400.0, 800.0])
    law = made_up_law(random, 800.0)
    errors = (law(sizes) * (1 + noise * random.normal(size=4))).clip(0.005, 0.95)
    hard = np.where(random.random((rows, 4)) < 0.75, random.random((rows, 1)), random.random((rows, 4)))
    wrong = hard < errors  # mostly the same rows are hard for all models
    resampled = random.multinomial(rows, np.full(rows, 1 / rows), size=60) @ wrong / rows
    curve = fit_curve(sizes, 1 - wrong.mean(0), 1 - resampled, "accuracy", rows, labels=1200, seed=seed)
    found = 1 - float((random.random(200) < law(1200) * (1 + noise * random.normal())).mean())
    pairs = [
        (curve.at(1200, level=0.9), 1 - law(1200)),
        (curve.more(300, level=0.9), law(1200) - law(1500)),
        (curve.at(1200, rows=200, level=0.9), found),
    ]
    return [low_to_high.low <= true <= low_to_high.high for low_to_high, true in pairs]  # type: ignore[operator]


def test_ninety_percent_intervals_of_made_up_curves_cover_at_least_eighty_percent() -> None:
    shares = np.mean([covered(seed) for seed in range(80)], axis=0)
    assert (shares >= 0.8).all(), shares


def test_the_gain_of_more_labels_has_an_interval_that_is_not_a_point() -> None:
    estimate = learning_curve(SIZES, tables(), "accuracy").more(400)
    assert width(estimate) > 0.2 * estimate.value
    assert width(estimate) < 3 * estimate.value

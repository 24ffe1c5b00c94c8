"""A learning curve finds the law by which its points were made, and covers what it is followed to."""

from __future__ import annotations

import numpy as np
import pytest

from lavra.core.errors import InputError
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


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    wanted = 1 - (0.05 + 3 * 3200**-0.5)
    covered = 0
    for seed in range(40):
        estimate = learning_curve(SIZES, tables(rows=500, seed=seed), "accuracy", draws=200, seed=seed).at(3200)
        covered += estimate.low <= wanted <= estimate.high
    assert covered >= 32


def test_the_order_of_the_sizes_does_not_matter() -> None:
    order = [3, 1, 4, 0, 2]
    given = tables()
    one = learning_curve(SIZES, given, "accuracy")
    two = learning_curve(SIZES[order], [given[place] for place in order], "accuracy")
    assert one.at(5000) == two.at(5000)


def test_more_labels_never_promise_a_loss_and_nothing_where_nothing_was_gained() -> None:
    flat = np.full(5, 0.8)
    curve = fit_curve(SIZES, flat, np.tile(flat, (20, 1)), "accuracy", 100)
    assert curve.more(1000).value == pytest.approx(0, abs=1e-9)
    falling = np.array([0.9, 0.85, 0.8, 0.78, 0.75])
    assert fit_curve(SIZES, falling, np.tile(falling, (20, 1)), "accuracy", 100).more(1000).value >= 0


def test_losses_fall_along_the_curve() -> None:
    losses = 0.2 + 4 * SIZES**-0.5
    curve = fit_curve(SIZES, losses, np.tile(losses, (20, 1)), "log_loss", 100)
    assert curve.at(6400).value == pytest.approx(0.25, abs=0.005)
    assert curve.sentence(4800) == "4,800 more labels would bring -0.05 in log_loss [-0.05, -0.05]"


def test_three_sizes_have_no_floor_and_two_are_refused() -> None:
    curve = learning_curve(SIZES[:3], tables()[:3], "accuracy")
    assert curve.curves[0][0] == 0
    with pytest.raises(InputError, match="at least 3 different numbers of labels"):
        learning_curve(SIZES[:2], tables()[:2], "accuracy")

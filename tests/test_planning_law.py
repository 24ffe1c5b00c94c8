"""The scaling law, the learning curve of fine-tuning, and the forecast from a run's own curve, on planted constants."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lavra.planning.builtin_law import builtin_law, law_for
from lavra.planning.curve import CurvePoint, forecast_from_curve
from lavra.planning.law import Law, Observation, fit_law
from lavra.planning.rectified import fit_rectified
from lavra.training.schedules import Schedule

_WARM = 1.06


def _planted(parameters: float, text_bytes: float) -> float:
    return 0.8 + 0.35 * (parameters / 1e6) ** -0.33 + 0.5 * (text_bytes / 1e7) ** -0.4


def _grid(noise: float, seed: int = 0) -> list[Observation]:
    """Return 12 runs, each with its end and one point before its cooldown; a run's points share their luck."""
    generator, seen = np.random.default_rng(seed), []
    for size in (2e5, 5e5, 1.2e6, 3e6):
        for text in (1e6, 3e6, 9e6):
            luck, run = math.exp(generator.normal(0, noise)), f"{size} {text}"
            seen.append(Observation(size, text, _planted(size, text) * luck, True, run))
            seen.append(Observation(size, text / 2, _planted(size, text / 2) * _WARM * luck, False, run))
    return seen


def test_planted_constants_are_recovered() -> None:
    law = fit_law(_grid(0.0), draws=10)
    for size, text in ((3e5, 2e6), (3e6, 9e6), (1e7, 6e7)):
        assert law.loss(size, text) == pytest.approx(_planted(size, text), rel=0.01)
    constants = law.constants
    assert constants["E"] == pytest.approx(0.8, abs=0.08)
    assert constants["alpha"] == pytest.approx(0.33, abs=0.05)
    assert constants["beta"] == pytest.approx(0.40, abs=0.05)
    assert constants["before_cooldown"] == pytest.approx(_WARM, abs=0.01)


def test_one_diverged_run_does_not_bend_the_law() -> None:
    seen = _grid(0.003)
    bad = Observation(1.2e6, 3e6, 3.0 * _planted(1.2e6, 3e6), True, "diverged")
    law, bent = fit_law(seen, draws=10), fit_law([*seen, bad], draws=10)
    assert bent.loss(1e7, 6e7) == pytest.approx(law.loss(1e7, 6e7), rel=0.02)


def test_intervals_cover_held_out_runs_at_ten_times_the_compute_and_more() -> None:
    covered, errors = 0, []
    for seed in range(12):
        law = fit_law(_grid(0.006, seed), draws=60, seed=seed)
        truth = _planted(1e7, 6e7) * math.exp(np.random.default_rng(100 + seed).normal(0, 0.006))
        found = law.forecast(1e7, 6e7)
        covered += found.low <= truth <= found.high
        errors.append(abs(found.value / truth - 1.0))
    assert covered >= 10
    assert np.mean(errors) < 0.02


def test_the_interval_grows_beyond_the_runs() -> None:
    law = fit_law(_grid(0.006), draws=60)

    def width(factor: float) -> float:
        found = law.forecast(3e6 * factor, 9e6 * factor)
        return math.log(found.high / found.low)

    assert width(1) < width(10) < width(100)


def test_a_law_is_the_same_for_the_same_seed_and_can_be_shifted() -> None:
    law = fit_law(_grid(0.01), draws=20, seed=3)
    assert law == fit_law(_grid(0.01), draws=20, seed=3)
    assert law.shifted(1.1).loss(1e6, 1e7) == pytest.approx(1.1 * law.loss(1e6, 1e7))
    assert isinstance(law, Law)
    assert set(law.to_json()["constants"]) == {"E", "A", "alpha", "B", "beta", "before_cooldown"}


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        fit_law([])
    with pytest.raises(ValueError, match="positive"):
        fit_law([Observation(1e6, 1e6, 0.0)])


def test_the_builtin_law_knows_easier_text_and_doubts_unseen_text() -> None:
    plain, easy, unseen = law_for(2.9), law_for(2.0), law_for(None)
    assert easy.loss(1e6, 1e7) < plain.loss(1e6, 1e7) == pytest.approx(builtin_law().loss(1e6, 1e7))
    assert unseen.noise > plain.noise


def test_the_learning_curve_of_fine_tuning_is_recovered() -> None:
    sizes = np.array([50, 100, 200, 400, 800, 1600, 3200.0])

    def curve(size: float) -> float:
        return 40 / (30 + size**0.55) + 1.1

    covered = 0
    for seed in range(6):
        losses = [curve(size) * math.exp(luck) for size, luck in
                  zip(sizes, np.random.default_rng(seed).normal(0, 0.004, len(sizes)), strict=True)]  # fmt: skip
        law = fit_rectified(sizes.tolist(), losses, draws=40, seed=seed)
        found = law.forecast(12800)
        covered += found.low <= curve(12800) <= found.high
        assert found.value == pytest.approx(curve(12800), rel=0.06)
    assert covered >= 5
    with pytest.raises(ValueError, match="four sizes"):
        fit_rectified([1, 2, 3], [3, 2, 1])


# A real run of 1213 steps on Machado de Assis: tokens, step and bits per byte of its validations.
_REAL = [(499712, 122, 2.294), (999424, 244, 2.133), (1499136, 366, 2.033), (1998848, 488, 1.949),
         (2498560, 610, 1.906), (2998272, 732, 1.861), (3497984, 854, 1.821), (3997696, 976, 1.789),
         (4497408, 1098, 1.762), (4968441, 1213, 1.743)]  # fmt: skip


def test_a_real_curve_foretells_its_end() -> None:
    points = [CurvePoint(step, tokens * 3.03, bits) for tokens, step, bits in _REAL]

    def after(count: int):
        return forecast_from_curve(
            points[:count],
            law=builtin_law(),
            parameters=1.05e6,
            steps=1213,
            text_bytes=points[-1].text_bytes,
            schedule=Schedule(),
        )

    assert after(1) is None
    widths = []
    for count in range(3, len(points)):
        found = after(count)
        assert found is not None
        assert found.value == pytest.approx(1.743, rel=0.025)
        widths.append(found.high / found.low)
    assert widths == sorted(widths, reverse=True)
    last = after(len(points))
    assert last is not None
    assert last.low == last.value == last.high == 1.743

"""The scaling law, the learning curve of fine-tuning, and the forecast from a run's own curve, on planted constants."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lavra.planning.scaling_law.builtin import (
    REFERENCE,
    builtin_scaling_law,
    level_by_start,
    scaling_law_for,
    start_for,
)
from lavra.planning.scaling_law.curves import CurvePoint, fit_rectified, forecast_from_curve
from lavra.planning.scaling_law.law import SHARPNESS, Observation, ScalingLaw, fit_scaling_law
from lavra.training.optimizers.schedules import Schedule

_WARM = 1.06


def _planted(parameters: float, text_bytes: float) -> float:
    return 0.6 + 0.35 * (parameters / 1e6) ** -0.33 + 0.5 * (text_bytes / 1e7) ** -0.4


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
    law = fit_scaling_law(_grid(0.0), draws=10)
    for size, text in ((3e5, 2e6), (3e6, 9e6), (1e7, 6e7)):
        assert law.loss(size, text) == pytest.approx(_planted(size, text), rel=0.01)
    constants = law.constants
    assert constants["E"] == pytest.approx(0.6, abs=0.06)
    assert constants["alpha"] == pytest.approx(0.33, abs=0.05)
    assert constants["beta"] == pytest.approx(0.40, abs=0.05)
    assert constants["before_cooldown"] == pytest.approx(_WARM, abs=0.01)


def test_a_run_that_begins_well_follows_the_law_once_it_has_come_down_to_there() -> None:
    law = fit_scaling_law(_grid(0.0), draws=10)
    for text in (1e3, 1e5, 1e6, 1e7, 1e9):
        plain, begun = law.loss(1e6, text), law.loss(1e6, text, start=2.0)
        assert begun <= min(plain, 2.0)
        assert begun == pytest.approx(min(plain, 2.0), rel=0.04)
    assert law.loss(1e6, 1e3, start=2.0) == pytest.approx(2.0, rel=1e-3)
    assert law.loss(1e6, 1e9, start=4.0) == pytest.approx(law.loss(1e6, 1e9), rel=1e-6)
    assert law.forecast(1e6, 1e6, 2.0).value == law.loss(1e6, 1e6, 2.0)


def test_planted_constants_are_recovered_from_runs_that_begin_well() -> None:
    def begun(seen: Observation, start: float) -> Observation:
        bits = (seen.bits_per_byte**-SHARPNESS + start**-SHARPNESS) ** (-1 / SHARPNESS)
        return replace(seen, bits_per_byte=bits, start=start)

    ends = [seen for seen in _grid(0.0) if seen.cooled]
    law = fit_scaling_law([begun(seen, 2.4 if seen.parameters < 1e6 else 2.2) for seen in ends], draws=10)
    for size, text in ((3e5, 2e6), (3e6, 9e6), (1e7, 6e7)):
        assert law.loss(size, text) == pytest.approx(_planted(size, text), rel=0.02)


def test_one_diverged_run_does_not_bend_the_law() -> None:
    seen = _grid(0.003)
    bad = Observation(1.2e6, 3e6, 3.0 * _planted(1.2e6, 3e6), True, "diverged")
    law, bent = fit_scaling_law(seen, draws=10), fit_scaling_law([*seen, bad], draws=10)
    assert bent.loss(1e7, 6e7) == pytest.approx(law.loss(1e7, 6e7), rel=0.02)


def test_intervals_cover_held_out_runs_at_ten_times_the_compute_and_more() -> None:
    covered, errors = 0, []
    for seed in range(12):
        law = fit_scaling_law(_grid(0.006, seed), draws=60, seed=seed)
        truth = _planted(1e7, 6e7) * math.exp(np.random.default_rng(100 + seed).normal(0, 0.006))
        found = law.forecast(1e7, 6e7)
        covered += found.low <= truth <= found.high
        errors.append(abs(found.value / truth - 1.0))
    assert covered >= 10
    assert np.mean(errors) < 0.02


def test_the_interval_grows_beyond_the_runs() -> None:
    law = fit_scaling_law(_grid(0.006), draws=60)

    def width(factor: float) -> float:
        found = law.forecast(3e6 * factor, 9e6 * factor)
        return math.log(found.high / found.low)

    assert width(1) < width(10) < width(100)


def test_a_law_is_the_same_for_the_same_seed_and_can_be_shifted() -> None:
    law = fit_scaling_law(_grid(0.01), draws=20, seed=3)
    assert law == fit_scaling_law(_grid(0.01), draws=20, seed=3)
    assert law.shifted(1.1).loss(1e6, 1e7) == pytest.approx(1.1 * law.loss(1e6, 1e7))
    assert isinstance(law, ScalingLaw)
    assert set(law.to_json()["constants"]) == {"E", "A", "alpha", "B", "beta", "before_cooldown"}


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        fit_scaling_law([])
    with pytest.raises(ValueError, match="positive"):
        fit_scaling_law([Observation(1e6, 1e6, 0.0)])


def test_the_builtin_law_knows_easier_text_and_doubts_unseen_text() -> None:
    plain, easy, unseen = scaling_law_for(REFERENCE), scaling_law_for(2.0), scaling_law_for(None)
    assert easy.loss(1e6, 1e7) < plain.loss(1e6, 1e7) == pytest.approx(builtin_scaling_law().loss(1e6, 1e7))
    assert unseen.noise > plain.noise


def test_pairs_of_tokens_tell_how_hard_a_text_is() -> None:
    usual = start_for(4096, 128, 4096)
    assert level_by_start(usual, 4096, 128, 4096) == pytest.approx(1.0)
    assert level_by_start(0.8 * usual, 4096, 128, 4096) == pytest.approx(0.8)
    harder = scaling_law_for(None, level=1.2)
    between, agreed = scaling_law_for(REFERENCE, level=1.2), scaling_law_for(REFERENCE, level=1.0)
    at = (1e6, 1e7)
    assert scaling_law_for(REFERENCE).loss(*at) < between.loss(*at) < harder.loss(*at)
    assert between.loss(*at) / harder.loss(*at) > 0.97
    assert agreed.noise == harder.noise < between.noise
    assert harder.loss(1e6, 1e7) == pytest.approx(1.2 * builtin_scaling_law().loss(1e6, 1e7))
    assert harder.noise < scaling_law_for(REFERENCE).noise
    # Larger vocabularies, wider models and more counts know more before the first step.
    assert usual > start_for(8192, 128, 8192)
    assert usual > start_for(4096, 256, 4096)
    assert usual < start_for(4096, 128, 1000)
    # Real ones: hundreds of chapters, novels and articles, 2,048 tokens, width 128 (see the lab notebook).
    for measured in (2.229, 2.263, 2.276):
        assert level_by_start(measured, 2048, 128, 2048) == pytest.approx(1.0, abs=0.04)


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


# A real run of 1542 steps on Machado de Assis: tokens, step and bits per byte of its validations.
_REAL = [(630686, 308, 1.9576), (946078, 462, 1.9004), (1261470, 616, 1.8579), (1576862, 770, 1.8309),
         (1892254, 924, 1.7961), (2207646, 1078, 1.7698), (2523038, 1232, 1.7391), (2838430, 1386, 1.7179),
         (3153822, 1540, 1.7029), (3157918, 1542, 1.7028)]  # fmt: skip


def test_a_real_curve_foretells_its_end() -> None:
    points = [CurvePoint(step, tokens * 3.496, bits) for tokens, step, bits in _REAL]

    def after(count: int):
        return forecast_from_curve(
            points[:count],
            law=builtin_scaling_law(),
            parameters=1.31e6,
            steps=1542,
            text_bytes=points[-1].text_bytes,
            schedule=Schedule(),
            start=2.061,
        )

    assert after(1) is None
    widths = []
    for count in range(2, len(points)):
        found = after(count)
        assert found is not None
        assert found.value == pytest.approx(1.7028, rel=0.025)
        widths.append(found.high / found.low)
    assert widths == sorted(widths, reverse=True)
    last = after(len(points))
    assert last is not None
    assert last.low == last.value == last.high == 1.7028

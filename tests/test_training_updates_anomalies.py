"""Loss spikes: planted ones are found, noise and falling curves are left alone, and the window survives a resume."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lavra.training.updates.anomalies import SpikeDetector


def curve(seed: int, steps: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """A falling loss and gradient norm, as in a run from scratch: steep at first, with heavy-tailed noise."""
    chance, step = np.random.default_rng(seed), np.arange(steps)
    losses = 3.0 + 7.0 * np.exp(-step / 60) + 2.0 * (step + 10) ** -0.3 + 0.05 * chance.standard_t(8, steps)
    norms = (0.4 + 2.0 * np.exp(-step / 80)) * np.exp(0.15 * chance.standard_normal(steps))
    return losses, norms


@pytest.mark.parametrize("seed", range(10))
def test_no_alarm_on_a_falling_noisy_curve(seed: int):
    detector = SpikeDetector()
    assert [step for step, pair in enumerate(zip(*curve(seed), strict=True)) if detector.observe(*pair)] == []


@pytest.mark.parametrize("seed", range(5))
def test_planted_spikes_are_found_each_one_and_no_other_step(seed: int):
    losses, norms = curve(seed)
    losses[[300, 301, 302, 900]] += 1.0
    norms[[600, 1500]] *= 10
    detector = SpikeDetector()
    found = {step: spike.signal for step in range(2000) if (spike := detector.observe(losses[step], norms[step]))}
    assert found == {300: "loss", 301: "loss", 302: "loss", 600: "gradient_norm", 900: "loss", 1500: "gradient_norm"}


def test_normal_noise_does_not_pass():
    chance, detector = np.random.default_rng(0), SpikeDetector()
    alarms = sum(
        detector.observe(4.0 + 0.1 * chance.standard_normal(), math.exp(0.2 * chance.standard_normal())) is not None
        for _ in range(20_000)
    )
    assert alarms == 0


def test_it_is_the_robust_z_score():
    detector = SpikeDetector(window=5, warmup=5)
    for loss in (1.0, 2.0, 3.0, 4.0, 100.0):
        assert detector.observe(loss, 1.0) is None
    spike = detector.observe(3.0 + 9 * 1.4826, 1.0)  # median 3, deviations 2 1 0 1 97: median 1
    assert spike is not None
    assert (spike.signal, spike.usual) == ("loss", 3.0)
    assert spike.z == pytest.approx(9.0)
    assert str(spike) == "loss 16.34, where 3 is usual (robust z-score 9.0)"


def test_a_value_that_is_not_finite_is_a_spike_and_is_not_remembered():
    detector = SpikeDetector()
    for _ in range(40):
        detector.observe(3.0, 1.0)
    before = detector.state_dict()
    for loss, norm in ((math.nan, math.nan), (math.inf, math.inf)):
        spike = detector.observe(loss, norm)
        assert spike is not None
        assert spike.z == math.inf
    assert detector.state_dict() == before
    assert detector.observe(3.0005, 1.001) is None  # a flat curve does not alarm at a wiggle
    assert detector.observe(3.0, 0.0) is None


def test_a_resumed_detector_goes_on_as_if_never_stopped():
    losses, norms = curve(1, 400)
    losses[[150, 350]] += 2
    whole, first = SpikeDetector(), SpikeDetector()
    expected = [whole.observe(*pair) for pair in zip(losses, norms, strict=True)]
    found = [first.observe(*pair) for pair in zip(losses[:200], norms[:200], strict=True)]
    second = SpikeDetector()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [second.observe(*pair) for pair in zip(losses[200:], norms[200:], strict=True)]
    assert found == expected
    assert second.state_dict() == whole.state_dict()


def test_wrong_settings_are_refused():
    for settings in ({"window": 8, "warmup": 9}, {"warmup": 1}, {"threshold": 0.0}):
        with pytest.raises(ValueError, match="spike detector"):
            SpikeDetector(**settings)

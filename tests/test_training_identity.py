"""Identity: a technique switched to its neutral value is exactly the run without it; and what each does otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from lavra.objectives.causal import Causal
from lavra.training.precision import Precision
from lavra.training.trainer import StepReport, Trainer
from lavra.training.updates import AnomalyGuard, Clip, ExponentialAverage, Monitor, SnapshotAverage, Update
from lavra.training.updates.anomalies import SpikeDetector
from lavra.training.updates.averages import _Averaged
from tiny_training import CONTEXT, Capture, Chain, all_tensors, assert_same_bits, distance, run, tiny_trainer

STEPS = 6

NEUTRAL: dict[str, Chain] = {
    "clip": lambda _: [Clip(math.inf)],
    "monitor": lambda _: [Monitor(every=2)],
    "anomalies": lambda _: [AnomalyGuard("skip", lambda step, reason: None, spikes=SpikeDetector(4, 50.0, 2))],
    "ema": lambda trainer: [ExponentialAverage(trainer.master_weights, 0.9)],
    "swa": lambda trainer: [SnapshotAverage(trainer.master_weights, 2, 2)],
    "all": lambda trainer: [
        Monitor(),
        AnomalyGuard("skip", lambda step, reason: None),
        ExponentialAverage(trainer.master_weights, 0.9),
        Clip(math.inf),
    ],
}


def same_reports(left: Sequence[StepReport], right: Sequence[StepReport]) -> bool:
    def figures(report: StepReport) -> tuple[float, ...]:
        return report.loss, report.gradient_norm, report.learning_rate, report.targets, report.applied

    return [figures(one) for one in left] == [figures(one) for one in right]


def master_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.master_weights.weights.items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NEUTRAL)
def test_what_is_neutral_moves_no_bit(name: str, precision: Precision):
    without = tiny_trainer(steps=STEPS, precision=precision)
    neutral = tiny_trainer(steps=STEPS, precision=precision, updates=NEUTRAL[name])
    assert same_reports(run(without), run(neutral))
    kept = {name: tensor for name, tensor in all_tensors(neutral).items() if name.split("/")[0] not in ("ema", "swa")}
    assert_same_bits(kept, all_tensors(without))


def test_no_smoothing_moves_no_bit_and_some_moves_many():
    without, neutral, smoothed = (
        tiny_trainer(objective=objective)
        for objective in (Causal(CONTEXT), Causal(CONTEXT, label_smoothing=0.0), Causal(CONTEXT, label_smoothing=0.1))
    )
    for trainer in (without, neutral, smoothed):
        run(trainer)
    assert_same_bits(all_tensors(neutral), all_tensors(without))
    assert distance(master_weights(smoothed), master_weights(without)) > 1e-4


def averaged(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The weights that validation sees."""
    with trainer.eval_mode():
        seen = master_weights(trainer)
        for name, weight in trainer.master_weights.weights.items():
            assert torch.equal(
                trainer.master_weights.working[name].float(), weight.to(trainer.master_weights.working[name]).float()
            )
    return seen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "chain",
    [
        lambda trainer: [ExponentialAverage(trainer.master_weights, 0.0)],
        lambda trainer: [SnapshotAverage(trainer.master_weights, STEPS - 1, 10)],
    ],
    ids=["ema of decay 0", "swa of one snapshot"],
)
def test_a_neutral_average_is_the_weights_themselves(chain: Chain, precision: Precision):
    trainer = tiny_trainer(steps=STEPS, precision=precision, updates=chain)
    run(trainer)
    before = all_tensors(trainer)
    assert_same_bits(averaged(trainer), master_weights(trainer))
    assert_same_bits(all_tensors(trainer), before)


def test_averages_are_what_they_say():
    seen: list[dict[str, torch.Tensor]] = []
    trainer = tiny_trainer(
        steps=STEPS,
        updates=lambda trainer: [
            ExponentialAverage(trainer.master_weights, 0.5),
            SnapshotAverage(trainer.master_weights, 1, 2),
        ],
    )
    for _ in range(STEPS):
        run(trainer, 1)
        seen.append(master_weights(trainer))
    ema, swa = trainer.updates
    assert isinstance(ema, _Averaged)
    assert isinstance(swa, _Averaged)
    for name, average in ema.averages.items():
        expected = seen[0][name].double()
        for weights in seen[1:]:
            expected = 0.5 * expected + 0.5 * weights[name].double()
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
    for name, average in swa.averages.items():
        expected = torch.stack([seen[number][name].double() for number in (1, 3, 5)]).mean(0)
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)


def test_averages_are_seen_in_evaluation_only():
    trainer = tiny_trainer(updates=lambda trainer: [ExponentialAverage(trainer.master_weights, 0.9)])
    with trainer.eval_mode():
        assert not trainer.model.training  # pyright: ignore[reportAttributeAccessIssue]
        assert_same_bits(master_weights(trainer), master_weights(tiny_trainer()))  # nothing is averaged yet
    run(trainer, 3)
    before = all_tensors(trainer)
    assert distance(averaged(trainer), master_weights(trainer)) > 1e-4
    with pytest.raises(ZeroDivisionError), trainer.eval_mode():
        raise ZeroDivisionError
    assert_same_bits(all_tensors(trainer), before)
    assert trainer.model.training  # pyright: ignore[reportAttributeAccessIssue]


def test_clipping_scales_the_gradient_to_the_limit_and_reports_what_was():
    capture, limit = Capture(), 0.01
    trainer = tiny_trainer(updates=lambda _: [Clip(limit), capture])
    reports = run(trainer, 3)
    for report, gradients in zip(reports, capture.gradients, strict=True):
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
        assert norm == pytest.approx(limit, rel=1e-4)
        assert report.gradient_norm > 2 * limit
        assert report.metrics["clipped"] == 1.0


class Probe(Capture):
    """An update that writes down when it is called."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def around(self, step, inner):
        self.calls.append(f"before {self.name}")
        outcome = inner()
        self.calls.append(f"after {self.name}")
        return outcome


def test_the_first_update_is_the_outermost():
    calls: list[str] = []
    chain: list[Update] = [Probe("a", calls), Probe("b", calls)]
    run(tiny_trainer(updates=lambda _: chain), 1)
    assert calls == ["before a", "before b", "after b", "after a"]


def test_the_monitor_measures_what_it_says():
    trainer = tiny_trainer(updates=lambda _: [Monitor(every=2), Clip(1e-3)])
    before = master_weights(trainer)
    first, second, third = run(trainer, 3)
    after = master_weights(trainer)
    assert "parameter_norm" not in second.metrics
    assert first.metrics["clipped_share"] == third.metrics["clipped_share"] == 1.0
    norm = math.sqrt(sum(float(weight.double().square().sum()) for weight in after.values()))
    assert third.metrics["parameter_norm"] == pytest.approx(norm, rel=1e-5)
    groups = {key for key in third.metrics if key.startswith("update_ratio_")}
    assert groups == {f"update_ratio_{group}" for group in ("embedding", "attention", "mlp", "head")}
    assert first.metrics["update_ratio_head"] == 0.0  # it begins at zero, and a ratio to nothing is none
    once = tiny_trainer(updates=lambda _: [Monitor(every=1), Clip(1e-3)])
    report = run(once, 1)[0]
    moved = (master_weights(once)["embedding.weight"] - before["embedding.weight"]).norm() / before[
        "embedding.weight"
    ].norm()
    assert report.metrics["update_ratio_embedding"] == pytest.approx(float(moved), rel=1e-4)

"""Faults in the middle of training: numbers that are none, memory that runs out, and fp16 that overflows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lavra.config.choices import Policy
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import Diverged, InputError, LavraError
from lavra.training.callbacks import Callbacks
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.fault_injection import injected
from lavra.training.loop import Intervals, Loop, Units
from lavra.training.precision import LossScale, Precision, choose_precision
from lavra.training.step import Step
from lavra.training.trainer import Trainer
from lavra.training.updates import AnomalyGuard, Clip, ExponentialAverage, RollBack, Update
from lavra.training.updates.anomalies import SpikeDetector
from lavra.training.validation import likelihood_metrics
from tiny_training import Capture, Poisoned, all_tensors, assert_same_bits, distance, run, tiny_trainer

STEPS = 8


class Record:
    """What a guard writes down."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, list[int]]] = []

    def __call__(self, step: Step, reason: str) -> None:
        self.lines.append((step.number, reason, step.documents))


def chain(policy: Policy, record: Callable[[Step, str], None], max_in_a_row: int = 10) -> Callable[..., list[Update]]:
    return lambda trainer: [
        AnomalyGuard(policy, record, max_in_a_row=max_in_a_row),
        ExponentialAverage(trainer.master_weights, 0.9),
        Clip(1.0),
    ]


def ignore(step: Step, reason: str) -> None:
    pass


def without_step(number: int, precision: Precision = "fp32") -> Trainer:
    """A sound run that leaves a step out."""
    trainer = tiny_trainer(steps=STEPS, precision=precision, updates=chain("skip", ignore))
    trainer.excluded = {number}
    run(trainer)
    return trainer


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_skipped_step_never_happened(value: float, precision: Precision):
    record = Record()
    trainer = tiny_trainer(
        steps=STEPS, precision=precision, objective=Poisoned({3}, STEPS, value), updates=chain("skip", record)
    )
    reports = run(trainer)
    assert [report.applied for report in reports] == [number != 3 for number in range(STEPS)]
    expected = without_step(3, precision)
    assert_same_bits(all_tensors(trainer), all_tensors(expected))
    assert trainer.targets == expected.targets
    assert [(number, reason) for number, reason, _ in record.lines] == [(3, f"the loss is {value}")]
    assert record.lines[0][2]  # its documents are named


class BadGradient(Poisoned):
    """The loss is sound, and its gradient is not."""

    def loss(self, model, batch, *, learning=True):
        loss = self.inner.loss(model, batch, learning=learning)
        factor = float(batch.model_inputs["factor"])
        loss.sum.register_hook(lambda gradient: gradient * factor)
        return loss


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gradient_that_is_not_finite_is_refused_though_the_loss_is(precision: Precision):
    """No loss scale of fp16 helps against it, so that the scale stays what it was."""
    record = Record()
    trainer = tiny_trainer(
        steps=STEPS, precision=precision, objective=BadGradient({3}, STEPS), updates=chain("skip", record)
    )
    reports = run(trainer)
    assert math.isfinite(reports[3].loss)
    assert record.lines[0][1] == "the gradient norm is nan"
    assert_same_bits(all_tensors(trainer), all_tensors(without_step(3, precision)))
    assert trainer.scale.value == (2.0**16 if precision == "fp16" else 1.0)


def test_a_spike_is_skipped_where_that_is_asked_for():
    record = Record()
    trainer = tiny_trainer(
        steps=20,
        objective=Poisoned({15}, 20, 30.0),
        updates=lambda _: [AnomalyGuard("skip", record, spikes=SpikeDetector(10, 20.0, 8))],
    )
    run(trainer)
    assert [number for number, _, _ in record.lines] == [15]
    assert "where" in record.lines[0][1]


def test_stop_ends_the_run_before_the_weights_are_touched():
    trainer = tiny_trainer(steps=STEPS, objective=Poisoned({3}, STEPS), updates=chain("stop", ignore))
    run(trainer, 3)
    before = all_tensors(trainer)
    with pytest.raises(Diverged, match="step 4: the loss is nan") as caught:
        run(trainer, 1)
    assert "--optimization.learning-rate" in caught.value.remedy
    assert_same_bits(all_tensors(trainer), before)


def test_too_many_bad_steps_in_a_row_end_the_run():
    bad = {1, 3, 4, 5}
    patient = tiny_trainer(steps=STEPS, objective=Poisoned(bad, STEPS), updates=chain("skip", ignore, 3))
    assert sum(not report.applied for report in run(patient)) == 4
    strict = tiny_trainer(steps=STEPS, objective=Poisoned(bad, STEPS), updates=chain("skip", ignore, 2))
    with pytest.raises(Diverged, match="step 6: the loss is nan; bad step 3 in a row"):
        run(strict)


def test_the_bad_steps_are_remembered_over_a_restart():
    trainer = tiny_trainer(steps=STEPS, objective=Poisoned({3, 4}, STEPS), updates=chain("skip", ignore, 1))
    run(trainer, 4)
    tensors, state = trainer.tensors(), trainer.state()
    again = tiny_trainer(steps=STEPS, objective=Poisoned({3, 4}, STEPS), updates=chain("skip", ignore, 1))
    again.restore(tensors.__getitem__, state)
    with pytest.raises(Diverged, match="bad step 2 in a row"):
        run(again, 1)


def make_loop(trainer: Trainer, folder: Path, checkpoint_every: int) -> Loop:
    record = RunFolder.create(folder, "")
    store = CheckpointStore(record.checkpoints)
    intervals = Intervals(trainer.steps, validate_every=1000, checkpoint_every=checkpoint_every)
    return Loop(trainer, record, store, intervals, Units(likelihood_metrics(3.0, 0.5), 1.0), None, Callbacks([]))


def test_rolling_back_is_leaving_the_step_out(tmp_path: Path):
    trainer = tiny_trainer(steps=STEPS, objective=Poisoned({3, 6}, STEPS), updates=chain("rollback", ignore))
    make_loop(trainer, tmp_path / "run", checkpoint_every=2).train()
    skipping = tiny_trainer(steps=STEPS, objective=Poisoned({3, 6}, STEPS), updates=chain("skip", ignore))
    run(skipping)
    assert_same_bits(all_tensors(trainer), all_tensors(skipping))
    assert trainer.excluded == {3, 6}
    steps = [line["step"] for line in RunFolder(tmp_path / "run").metrics.read()]
    assert steps == list(range(1, STEPS + 1))
    log = (tmp_path / "run" / "events.log").read_text()
    assert "rolled back to step 2; step 4 will be skipped (the loss is nan)" in log
    assert "rolled back to step 6; step 7 will be skipped" in log


def test_rolling_back_forever_is_not_possible(tmp_path: Path):
    trainer = tiny_trainer(
        steps=STEPS, objective=Poisoned(set(range(2, STEPS)), STEPS), updates=chain("rollback", ignore, 3)
    )
    with pytest.raises(Diverged, match="step 6: the loss is nan; bad step 4 in a row"):
        make_loop(trainer, tmp_path / "run", checkpoint_every=2).train()


def test_rolling_back_before_there_is_a_checkpoint_says_so(tmp_path: Path):
    trainer = tiny_trainer(steps=STEPS, objective=Poisoned({1}, STEPS), updates=chain("rollback", ignore))
    with pytest.raises(LavraError, match="no checkpoint to roll back to yet"):
        make_loop(trainer, tmp_path / "run", checkpoint_every=4).train()


def test_rolling_back_names_the_step():
    trainer = tiny_trainer(steps=STEPS, objective=Poisoned({2}, STEPS), updates=chain("rollback", ignore))
    run(trainer, 2)
    with pytest.raises(RollBack) as caught:
        run(trainer, 1)
    assert (caught.value.step, caught.value.reason) == (2, "the loss is nan")


@pytest.mark.parametrize("reached", [5, 6])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(reached: int):
    """Two micro-batches a step: the third step runs out of memory in its first or in its second.

    The weights equal bit by bit those of a run that changed to the smaller micro-batch at that step, and within the
    rounding of a sum those of a run that never changed.
    """
    lines: list[str] = []
    faulty = tiny_trainer(steps=STEPS, global_batch_size=8, micro_batch_size=4, report=lines.append)
    with injected(f"step.backward:{reached}:oom"):
        run(faulty)
    assert faulty.batches.micro_batch_size == 2
    assert faulty.state()["micro_batch_size"] == 2
    assert len(lines) == 1
    assert "out of memory at step 3: micro-batch 4 -> 2 rows" in lines[0]
    by_hand = tiny_trainer(steps=STEPS, global_batch_size=8, micro_batch_size=4)
    run(by_hand, 2)
    by_hand.batches.micro_batch_size = 2
    run(by_hand)
    assert_same_bits(all_tensors(faulty), all_tensors(by_hand))


def test_the_gradient_after_running_out_of_memory_is_the_same_within_rounding():
    found = []
    for fault in ("", "step.backward:2:oom"):
        capture = Capture()
        trainer = tiny_trainer(global_batch_size=8, micro_batch_size=4, updates=lambda _, capture=capture: [capture])
        with injected(fault):
            run(trainer, 1)
        found.append(capture)
    assert found[1].weights == found[0].weights
    assert found[1].losses[0] == pytest.approx(found[0].losses[0], rel=1e-6)
    assert distance(found[1].gradients[0], found[0].gradients[0]) < 1e-5


def test_a_single_row_that_does_not_fit_is_the_end():
    trainer = tiny_trainer(micro_batch_size=1)
    with injected("step.backward:2:oom"), pytest.raises(InputError, match="single row"):
        run(trainer, 1)


def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_a_calm():
    scale = LossScale(active=True, patience=3)
    assert scale.value == 2.0**16
    scale.update(overflowed=True)
    assert scale.value == 2.0**15
    for _ in range(2):
        scale.update(overflowed=False)
    assert scale.value == 2.0**15
    again = LossScale(active=True, patience=3)
    again.load_state_dict(scale.state_dict())
    again.update(overflowed=False)
    assert (again.value, again.calm) == (2.0**16, 0)
    for _ in range(40):
        again.update(overflowed=True)
    assert again.value == 1.0


def test_other_types_need_no_loss_scale():
    scale = LossScale(active=False)
    scale.update(overflowed=True)
    assert scale.value == 1.0


def test_an_overflow_in_fp16_is_done_again_with_a_smaller_scale():
    loud = Poisoned({2}, STEPS, 3e4)  # a loss that large overflows fp16 at the first scale, and not at a smaller one
    trainer = tiny_trainer(steps=STEPS, precision="fp16", objective=loud, updates=chain("stop", ignore))
    reports = run(trainer)
    assert all(report.applied for report in reports)
    assert 1.0 < trainer.scale.value < 2.0**16
    assert trainer.state()["loss_scale"]["value"] == trainer.scale.value
    exact = tiny_trainer(steps=STEPS, precision="fp32", objective=Poisoned({2}, STEPS, 3e4))
    for report, expected in zip(reports[:4], run(exact)[:4], strict=True):
        assert report.loss == pytest.approx(expected.loss, rel=0.02)
        assert report.gradient_norm == pytest.approx(expected.gradient_norm, rel=0.05)


def test_an_overflow_in_fp16_that_meets_the_end_of_the_memory_is_done_again_all_the_same():
    loud = Poisoned({0}, STEPS, 3e4)
    trainer = tiny_trainer(steps=STEPS, precision="fp16", objective=loud, updates=chain("stop", ignore))
    with injected("step.backward:2:oom"):
        report = run(trainer, 1)[0]
    assert report.applied
    assert trainer.batches.micro_batch_size == 2


def test_a_loss_that_is_no_number_does_not_lower_the_scale():
    trainer = tiny_trainer(steps=STEPS, precision="fp16", objective=Poisoned({1}, STEPS), updates=chain("skip", ignore))
    run(trainer, 2)
    assert trainer.scale.value == 2.0**16


def test_precision_is_chosen_by_what_the_processor_has():
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) in ("fp32", "bf16")
    assert choose_precision("bf16", cpu) == "bf16"
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    with pytest.raises(InputError, match="fp16 training on a CPU"):
        choose_precision("fp16", cpu)
    with pytest.raises(InputError, match="'fp8' is not a precision"):
        choose_precision("fp8", cpu)

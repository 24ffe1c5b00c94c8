"""Validation during training: the mean over all held-out tokens, however it is cut, and whatever memory there is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lavra.core.disk.run_folder import RunFolder
from lavra.data.packing import WindowSource
from lavra.objectives.causal import Causal
from lavra.training.callbacks import Callbacks
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.loop import Intervals, Loop, Units
from lavra.training.updates import ExponentialAverage
from lavra.training.validation import Validation, likelihood_metrics
from tiny_training import CONTEXT, SPEC, lively, run, tiny_trainer, topics_store

CPU = torch.device("cpu")


def validation_set(rows: int | None = None) -> Validation:
    source = WindowSource(topics_store(), CONTEXT, 0)
    return Validation(source, rows or source.order.windows, likelihood_metrics(topics_store().manifest.bytes_per_token))


@pytest.mark.parametrize("micro_batch_size", [1, 3, 64])
def test_the_loss_is_the_mean_over_tokens_however_it_is_cut(micro_batch_size: int):
    model, validation = lively(SPEC).eval(), validation_set()
    windows = validation.source.rows(0, validation.rows)
    losses, tokens = 0.0, 0
    with torch.no_grad():
        for window in windows:
            part = Causal(CONTEXT).loss(model, Causal(CONTEXT).encode([window], None, 0.0))  # pyright: ignore[reportArgumentType]
            losses, tokens = losses + float(part.sum), tokens + len(window)
    assert tokens == topics_store().manifest.tokens
    assert validation.measure(model, Causal(CONTEXT), micro_batch_size, CPU)["loss"] == pytest.approx(
        losses / tokens, rel=1e-6
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_loss_is_not_smoothed():
    model, validation = lively(SPEC).eval(), validation_set()
    plain = validation.measure(model, Causal(CONTEXT), 4, CPU)["loss"]
    assert validation.measure(model, Causal(CONTEXT, label_smoothing=0.2), 4, CPU)["loss"] == plain


def test_running_out_of_memory_halves_the_rows_and_changes_nothing():
    model, validation = lively(SPEC).eval(), validation_set(8)
    expected = validation.measure(model, Causal(CONTEXT), 4, CPU)["loss"]
    largest: list[int] = []

    class Greedy(Causal):
        def loss(self, model, batch, *, learning=True):
            largest.append(len(batch.inputs))
            if len(batch.inputs) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().loss(model, batch)

    assert validation.measure(model, Greedy(CONTEXT), 4, CPU)["loss"] == pytest.approx(expected, rel=1e-6)
    assert largest == [4, 2, *[1] * 8]

    class Broken(Causal):
        def loss(self, model, batch, *, learning=True):
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        validation.measure(model, Broken(CONTEXT), 4, CPU)["loss"]


def test_a_single_row_that_does_not_fit_is_an_error():
    class Hopeless(Causal):
        def loss(self, model, batch, *, learning=True):
            raise MemoryError

    with pytest.raises(MemoryError):
        validation_set().measure(lively(SPEC), Hopeless(CONTEXT), 2, CPU)["loss"]


def test_bits_per_byte_are_of_the_original_text():
    validation = validation_set()
    manifest = topics_store().manifest
    assert validation.metrics(math.log(2), {})["bits_per_byte"] == pytest.approx(manifest.tokens / manifest.bytes)


def test_the_loop_keeps_its_rhythm_and_validates_the_averages(tmp_path: Path):
    trainer = tiny_trainer(steps=7, updates=lambda trainer: [ExponentialAverage(trainer.master_weights, 0.5)])
    record = RunFolder.create(tmp_path / "run", "")
    store = CheckpointStore(record.checkpoints, keep=10)
    intervals = Intervals(7, validate_every=3, checkpoint_every=2, log_every=2)
    validation = validation_set(4)
    loop = Loop(trainer, record, store, intervals, Units(likelihood_metrics(3.0, 0.5), 1.0), validation, Callbacks([]))
    loop.train()
    lines = record.metrics.read()
    assert [line["step"] for line in lines if line["split"] == "train"] == [2, 4, 6, 7]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [3, 6, 7]
    assert store.steps() == [2, 4, 6, 7]
    for line in lines:
        assert line["perplexity"] == pytest.approx(math.exp(line["loss"]))
        bytes_per_token = 3.0 if line["split"] == "train" else topics_store().manifest.bytes_per_token
        assert line["bits_per_byte"] == pytest.approx(line["loss"] / math.log(2) / bytes_per_token)
    with trainer.eval_mode():
        averaged = validation.measure(trainer.model, Causal(CONTEXT), 4, CPU)["loss"]
    raw = validation.measure(trainer.model, Causal(CONTEXT), 4, CPU)["loss"]
    assert lines[-1]["loss"] == pytest.approx(averaged, rel=1e-6)
    assert lines[-1]["loss"] != pytest.approx(raw, rel=1e-6)
    assert lines[-1]["tokens"] == trainer.targets


def test_looking_at_a_run_does_not_change_it(tmp_path: Path):
    """Validation, checkpoints and logging leave the weights as they would be without."""
    watched, alone = tiny_trainer(steps=5), tiny_trainer(steps=5)
    record = RunFolder.create(tmp_path / "run", "")
    intervals = Intervals(5, validate_every=1, checkpoint_every=1)
    Loop(
        watched,
        record,
        CheckpointStore(record.checkpoints),
        intervals,
        Units(likelihood_metrics(3.0, 0.5), 1.0),
        validation_set(),
        Callbacks([]),
    ).train()
    run(alone)
    for name, weight in watched.master_weights.weights.items():
        assert torch.equal(weight, alone.master_weights.weights[name]), name


def test_without_rows_there_is_no_loss():
    validation = Validation(WindowSource(topics_store(), CONTEXT, 0), 0, likelihood_metrics(3.0))
    assert math.isnan(validation.measure(lively(SPEC).eval(), Causal(CONTEXT), 4, CPU)["loss"])

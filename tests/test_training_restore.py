"""Going on from a saved state is never having stopped: bit by bit, whatever is being averaged or optimised."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lavra.config.choices import OptimizerName
from lavra.core.errors import CorruptFile, InputError
from lavra.data.packing import WindowSource
from lavra.models.protocols import IGNORED
from lavra.training.batches import BatchSource, DistributedInfo
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.optimizers.optimizers import OptimizerOptions, Optimizers
from lavra.training.precision import Precision
from lavra.training.trainer import Trainer
from lavra.training.updates import AnomalyGuard, Clip, ExponentialAverage, Monitor, SnapshotAverage
from lavra.training.updates.anomalies import SpikeDetector
from tiny_training import SPEC, Capture, Chain, all_tensors, assert_same_bits, distance, run, tiny_trainer

STEPS = 7

CHAINS: dict[str, Chain] = {
    "none": lambda _: [],
    "ema": lambda trainer: [
        Monitor(2),
        AnomalyGuard("skip", lambda step, reason: None, spikes=SpikeDetector(4, 50.0, 2)),
        ExponentialAverage(trainer.master_weights, 0.8),
        Clip(0.5),
    ],
    "swa": lambda trainer: [SnapshotAverage(trainer.master_weights, 2, 2)],
}


def through_disk(trainer: Trainer, folder: Path) -> tuple[Callable[[str], dict[str, torch.Tensor]], dict[str, Any]]:
    """Save and load a state as a run does."""
    store = CheckpointStore(folder)
    store.save(trainer.step, trainer.tensors(), trainer.state(), background=False)
    checkpoint = CheckpointStore(folder).latest()
    assert checkpoint is not None
    return checkpoint.load, checkpoint.state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "lion", "adafactor", "soap"])
@pytest.mark.parametrize("name", CHAINS)
def test_stopped_and_gone_on_is_never_stopped(
    tmp_path: Path, name: str, optimizer: OptimizerName, precision: Precision
):
    options: dict[str, Any] = {
        "steps": STEPS,
        "precision": precision,
        "optimizer": OptimizerOptions(optimizer, weight_decay=0.1),
        "updates": CHAINS[name],
    }
    straight = tiny_trainer(**options)
    reports = run(straight)
    trainer = tiny_trainer(**options)
    found = []
    for stop in (0, 1, 4):
        found += run(trainer, stop - trainer.step)
        load, state = through_disk(trainer, tmp_path / f"at-{stop}")
        trainer = tiny_trainer(**options)
        trainer.restore(load, state)
        assert trainer.step == stop
    found += run(trainer)
    assert found == reports
    assert_same_bits(all_tensors(trainer), all_tensors(straight))
    assert trainer.state() == straight.state()


def test_the_state_is_plain_json():
    trainer = tiny_trainer(updates=CHAINS["ema"])
    run(trainer, 2)
    assert json.loads(json.dumps(trainer.state())) == trainer.state()


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_a_smaller_micro_batch_after_restoring_keeps_order_and_tokens(micro_batch_size: int):
    captures = [Capture(), Capture()]
    first = tiny_trainer(steps=STEPS, micro_batch_size=4, updates=lambda _: [captures[0]])
    run(first, 3)
    tensors = {group: {name: part.clone() for name, part in all_.items()} for group, all_ in first.tensors().items()}
    state = first.state()
    run(first, 1)
    second = tiny_trainer(steps=STEPS, micro_batch_size=micro_batch_size, updates=lambda _: [captures[1]])
    second.restore(tensors.__getitem__, state)
    run(second, 1)
    assert captures[1].weights == captures[0].weights[3:]
    assert captures[1].losses[0] == pytest.approx(captures[0].losses[3], rel=1e-5)
    assert distance(captures[1].gradients[0], captures[0].gradients[3]) < 1e-5
    assert second.targets == first.targets


def rows_of(batches: BatchSource, step: int) -> list[tuple[int, ...]]:
    """Targets of a step, row by row, in order."""
    return [tuple(row.tolist()) for batch in batches.micro_batches(step) for row in batch.targets]


def test_what_a_step_trains_on_depends_on_its_number_only():
    whole = tiny_trainer(global_batch_size=4, micro_batch_size=4).batches
    small = tiny_trainer(global_batch_size=4, micro_batch_size=1).batches
    distributed = [
        tiny_trainer(global_batch_size=4, micro_batch_size=2, distributed=DistributedInfo(rank, 2)).batches
        for rank in range(2)
    ]
    expected = {step: rows_of(whole, step) for step in range(8)}
    for step in (5, 0, 7, 3, 4):  # any order: what was prepared ahead plays no part
        assert rows_of(small, step) == expected[step]
        assert rows_of(whole, step) == expected[step]
        assert [row for rank in distributed for row in rows_of(rank, step)] == expected[step]
    assert len({row for rows in expected.values() for row in rows}) == 32
    other = tiny_trainer(global_batch_size=4, seed=1).batches
    assert rows_of(other, 0) != expected[0]


def test_an_epoch_of_steps_learns_from_every_token_once():
    source = tiny_trainer(global_batch_size=1, micro_batch_size=1).batches.source
    assert isinstance(source, WindowSource)
    tokens, windows = source.store.manifest.tokens, source.order.windows
    trainer = tiny_trainer(global_batch_size=1, micro_batch_size=1, steps=windows)
    run(trainer)
    assert trainer.targets == tokens
    seen = [token for step in range(windows) for row in rows_of(trainer.batches, step) for token in row]
    kept = sorted(token for token in seen if token != IGNORED)
    assert kept == sorted(source.store.tokens.tolist())


def test_closed_batches_stop_their_thread():
    import threading

    batches = tiny_trainer().batches
    batches.micro_batches(0)
    before = threading.active_count()
    batches.close()
    assert threading.active_count() == before - 1


def test_an_excluded_step_is_counted_and_left_out():
    trainer = tiny_trainer(steps=STEPS)
    trainer.excluded = {0, 2}
    reports = run(trainer)
    assert [report.applied for report in reports] == [number not in {0, 2} for number in range(STEPS)]
    assert trainer.step == STEPS
    again = tiny_trainer(steps=STEPS)
    again.restore({"master_weights": trainer.tensors()["master_weights"], "optimizer": {}}.__getitem__, trainer.state())
    assert again.excluded == {0, 2}


def test_weights_of_another_model_are_refused():
    trainer = tiny_trainer()
    weights = dict(trainer.tensors()["master_weights"])
    weights["extra"] = torch.zeros(1)
    del weights["embedding.weight"]
    with pytest.raises(InputError, match=r"other weights than the model: embedding\.weight, extra"):
        trainer.master_weights.load(weights)
    with pytest.raises(CorruptFile, match="state for unknown weights: extra"):
        trainer.optimizers.load_tensors({"extra|step": torch.zeros(())})


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_each_weight_has_one_optimizer_and_only_matrices_decay(name: OptimizerName):
    from dataclasses import replace

    from lavra.models.native.building import build_decoder

    spec = replace(SPEC, positions="learned", norm_weight=True, mlp_bias=True, attention_bias=True)
    weights = dict(build_decoder(spec).named_parameters())
    optimizers = Optimizers(weights, OptimizerOptions(name, weight_decay=0.1, muon_weight_decay=0.2))
    names = {id(weight): one for one, weight in weights.items()}
    decay = {
        names[id(weight)]: (type(optimizer).__name__, group["weight_decay"])
        for optimizer in optimizers.optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert decay.keys() == weights.keys()
    blocks = ("Muon", 0.2) if name == "muon" else ("AdamW", 0.1)
    for one, weight in weights.items():
        if "embedding" in one or weight.dim() < 2:
            assert decay[one] == ("AdamW", 0.0), one
        else:
            assert decay[one] == (blocks if "blocks." in one else ("AdamW", 0.1)), one

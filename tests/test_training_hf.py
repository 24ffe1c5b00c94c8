"""Wrapped models learn in the same loop as our decoder: accumulation, resuming, averaging and precision included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hf_models as tiny
from hf_training import rows_for, training
from lavra.models.hf.folders import open_hf_model, save_hf_model
from lavra.models.protocols import eval_mode
from lavra.models.transforms.checkpointing import CheckpointBlocks
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.trainer import Trainer
from lavra.training.updates import Clip, ExponentialAverage
from tiny_training import all_tensors, assert_same_bits, distance, run

NAMES = ["gpt2", "opt", "t5", "bart", "bert", "deberta-v2", "modernbert"]
KINDS = ["gpt2", "t5", "bert"]


def undropped(name: str) -> tiny.HFModel:
    """Return a model without dropout, whose loss is one function of the weights and the batch."""
    model = tiny.hf_model(name)
    for module in model.modules():
        for field in ("p", "dropout", "attention_dropout", "dropout_prob", "attn_dropout"):
            if isinstance(getattr(module, field, None), float):
                setattr(module, field, 0.0)
    return model


def measured(trainer: Trainer) -> float:
    with eval_mode(trainer.model), torch.no_grad():
        losses = [trainer.objective.loss(trainer.model, batch) for batch in trainer.batches.micro_batches(0)]
    return float(sum(loss.sum for loss in losses)) / sum(loss.weight for loss in losses)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name):
    trainer = training(tiny.hf_model(name), rows=rows_for(tiny.FAMILIES[name][0], 4), steps=12)
    before = measured(trainer)
    reports = run(trainer)
    assert all(report.applied for report in reports)
    assert measured(trainer) < 0.95 * before


@pytest.mark.parametrize("name", KINDS)
def test_micro_batches_add_up_to_the_whole_step(name):
    whole, parts = training(undropped(name)), training(undropped(name), micro_batch_size=1)
    for one, other in zip(run(whole, 3), run(parts, 3), strict=True):
        assert one.targets == other.targets
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "fp32") for name in NAMES), *((name, "bf16") for name in KINDS)]
)
def test_going_on_from_a_checkpoint_is_never_having_stopped(name, precision, tmp_path: Path):
    def made() -> Trainer:
        trainer = training(tiny.hf_model(name), precision=precision)
        trainer.updates = [ExponentialAverage(trainer.master_weights, 0.8), Clip(0.5)]
        return trainer

    whole = made()
    run(whole, 2)
    CheckpointStore(tmp_path).save(whole.step, whole.tensors(), whole.state(), background=False)
    run(whole)
    again = made()
    checkpoint = CheckpointStore(tmp_path).latest()
    assert checkpoint is not None
    again.restore(checkpoint.load, checkpoint.state)
    run(again)
    assert_same_bits(all_tensors(whole), all_tensors(again))


@pytest.mark.parametrize("name", KINDS)
def test_averaged_weights_are_evaluated_and_exported_with_their_ties(name, tmp_path: Path):
    trainer = training(tiny.hf_model(name), precision="bf16")
    average = ExponentialAverage(trainer.master_weights, 0.5)
    trainer.updates = [average]
    run(trainer)
    raw = {key: weight.detach().clone() for key, weight in trainer.master_weights.weights.items()}
    with trainer.eval_mode():
        assert distance(dict(trainer.master_weights.weights), average.averages) == 0
        averaged = measured(trainer)
    assert distance(dict(trainer.master_weights.weights), raw) == 0
    assert averaged != measured(trainer)
    model = trainer.model
    assert isinstance(model, tiny.HFModel)
    save_hf_model(tmp_path / "model", model, weights=average.averages)
    opened = open_hf_model(tmp_path / "model")
    assert opened.tied
    assert opened.output_projection()[0].data_ptr() == opened.inner.get_input_embeddings().weight.data_ptr()
    assert_same_bits(dict(opened.named_parameters()), dict(average.averages))


@pytest.mark.parametrize("name", KINDS)
def test_training_in_bf16_stays_near_fp32(name):
    exact, coarse = training(undropped(name)), training(undropped(name), precision="bf16")
    losses = [[report.loss for report in run(trainer)] for trainer in (exact, coarse)]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


@pytest.mark.parametrize("name", KINDS)
def test_checkpointed_blocks_train_to_the_same_weights(name):
    plain, saving = training(tiny.hf_model(name)), training(tiny.hf_model(name))
    CheckpointBlocks().apply(saving.model)
    run(plain, 3)
    run(saving, 3)
    weights = [{key: one.detach() for key, one in each.master_weights.weights.items()} for each in (saving, plain)]
    assert distance(*weights) < 1e-5


@pytest.mark.heavy
@pytest.mark.parametrize("name", KINDS)
def test_fifty_steps_are_those_of_the_trainer_of_transformers(name, tmp_path: Path):
    """Same weights, rows, order, optimiser and schedule: the same loss at every step."""
    pytest.importorskip("accelerate")
    import transformers

    steps, rate = 50, 1e-3
    model = undropped(name)
    save_hf_model(tmp_path / "model", model)
    trainer = training(model, rows=rows_for(model.kind, 32, several=1), steps=steps, learning_rate=rate)
    trainer.schedule = type(trainer.schedule)(shape="constant", warmup_steps=0)
    batches = [trainer.batches.micro_batches(step)[0] for step in range(steps)]
    ours = [report.loss for report in run(trainer)]

    class Given(transformers.Trainer):
        def get_train_dataloader(self):
            return batches_for(batches, model.kind)

    theirs = open_hf_model(tmp_path / "model").inner
    for module in theirs.modules():
        for field in ("p", "dropout", "attention_dropout", "dropout_prob", "attn_dropout"):
            if isinstance(getattr(module, field, None), float):
                setattr(module, field, 0.0)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "theirs"), max_steps=steps, learning_rate=rate, lr_scheduler_type="constant",
        adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-10, weight_decay=0.0, max_grad_norm=0.0, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, seed=0,
    )  # fmt: skip
    run_of_theirs = Given(model=theirs, args=arguments)
    run_of_theirs.train()
    losses = [line["loss"] for line in run_of_theirs.state.log_history if "loss" in line]
    assert losses == pytest.approx(ours, abs=1e-3)


def batches_for(batches, kind):
    """Return batches of one document a row as the trainer of `transformers` takes them: padded, with labels."""
    found = []
    for batch in batches:
        real = (batch.document_ids >= 0).long()
        if kind == "encoder-decoder":
            read = (batch.model_inputs["encoder_document_ids"] >= 0).long()
            one = {"input_ids": batch.model_inputs["encoder_inputs"], "attention_mask": read,
                   "decoder_input_ids": batch.inputs, "labels": batch.targets}  # fmt: skip
        elif kind == "encoder":
            one = {"input_ids": batch.inputs, "attention_mask": real, "labels": batch.targets}
        else:  # its loss shifts labels itself
            labels = torch.full_like(batch.targets, -100)
            labels[:, 1:] = batch.targets[:, :-1]
            one = {"input_ids": batch.inputs, "attention_mask": real, "labels": labels}
        found.append(one)
    return found

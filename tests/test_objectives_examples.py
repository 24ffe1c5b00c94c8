"""Answers and sequence to sequence: packed rows are their examples one by one, and micro-batches add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import hf_models as tiny
from lavra.core.seeds import Streams
from lavra.data.examples.store import Example, ExampleSource, PackedRow
from lavra.data.examples.writer import ExampleWriter
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss
from lavra.objectives.causal import Causal
from lavra.objectives.completion import Completion
from lavra.objectives.seq2seq import Seq2Seq, StartToken
from lavra.training.batches import BatchSource
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.trainer import Trainer
from lavra.training.validation import Validation, likelihood_metrics
from little_tokenizers import byte_level
from tiny_training import SPEC, Capture, distance, lively

NO_STREAMS = cast("Streams", None)
CONTEXT = 48


def drawn(count: int, *, both: bool, seed: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        tokens = random.integers(tiny.FIRST, tiny.VOCABULARY, random.integers(4, 14))
        learned = np.arange(len(tokens)) >= (0 if both else random.integers(1, len(tokens)))
        source = random.integers(tiny.FIRST, tiny.VOCABULARY, random.integers(2, 12)) if both else None
        examples.append(Example(number, tokens, learned, source))
    return examples


def rows_of(examples: Sequence[Example], per_row: int) -> list[PackedRow]:
    return [PackedRow(tuple(examples[start : start + per_row])) for start in range(0, len(examples), per_row)]


@cache
def decoder() -> Decoder:
    return lively(replace(SPEC, vocabulary=tiny.VOCABULARY, context=CONTEXT)).eval()


def loss_and_gradient(model: Any, objective: Any, batches: Sequence[Batch]) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = objective.loss(model, batch)
        loss.sum.backward()
        total += float(loss.sum.detach())
    gradients = [one.grad if one.grad is not None else torch.zeros_like(one) for one in model.parameters()]
    return total, torch.cat([one.flatten() for one in gradients])


def assert_packed_is_one_by_one(model: Any, objective: Any, examples: Sequence[Example]) -> None:
    packed = objective.encode(rows_of(examples, 3), NO_STREAMS, 0.0)
    assert packed.documents == tuple(range(len(examples)))
    alone = [objective.encode([PackedRow((one,))], NO_STREAMS, 0.0) for one in examples]
    assert packed.weight == sum(one.weight for one in alone) == float((packed.targets != IGNORED).sum())
    loss, gradient = loss_and_gradient(model, objective, [packed])
    expected, expected_gradient = loss_and_gradient(model, objective, alone)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert (gradient - expected_gradient).norm() < 2e-5 * expected_gradient.norm()


@pytest.mark.parametrize("name", ["ours", "gpt2", "llama", "opt"])
def test_answers_of_a_packed_row_are_those_of_its_examples(name: str):
    model = decoder() if name == "ours" else tiny.shared_model(name)
    assert_packed_is_one_by_one(model, Completion(CONTEXT), drawn(9, both=False))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_both_sides_of_a_packed_row_are_those_of_its_examples(name: str):
    model = tiny.shared_model(name)
    assert_packed_is_one_by_one(model, Seq2Seq(48, 48, model.decoder_inputs), drawn(9, both=True))


@torch.no_grad()
def test_the_loss_is_that_of_transformers():
    model = tiny.shared_model("t5")
    examples = drawn(4, both=True)
    objective = Seq2Seq(48, 48, model.decoder_inputs)
    loss = objective.loss(model, objective.encode(rows_of(examples, 4), NO_STREAMS, 0.0))
    theirs = 0.0
    for one in examples:
        output = model.inner(input_ids=torch.tensor(one.source)[None], labels=torch.tensor(one.tokens)[None])
        theirs += float(output.loss) * len(one.tokens)
    assert float(loss.sum) == pytest.approx(theirs, rel=1e-5)
    assert objective.encode(rows_of(examples, 4), NO_STREAMS, 0.0).model_inputs.keys() == {
        "encoder_inputs", "encoder_document_ids", "encoder_positions"
    }  # fmt: skip
    default = Seq2Seq(48, 48, StartToken(0)).encode(rows_of(examples, 4), NO_STREAMS, 0.0)
    shifted = objective.encode(rows_of(examples, 4), NO_STREAMS, 0.0)
    assert torch.equal(default.inputs, shifted.inputs)


@torch.no_grad()
def test_nothing_is_asked_of_the_prompt_and_with_everything_asked_the_loss_is_the_causal_one():
    (example,) = drawn(1, both=False, seed=5)
    batch = Completion(CONTEXT).encode([PackedRow((example,))], NO_STREAMS, 0.0)
    read = int(example.learned.argmax()) - 1
    assert (batch.targets[0, :read] == IGNORED).all()
    assert batch.targets[0, read : example.length].tolist() == example.tokens[read + 1 :].tolist()
    assert batch.inputs[0, : example.length].tolist() == example.tokens[:-1].tolist()
    whole = replace(example, learned=np.ones(len(example.tokens), bool))
    everything = Completion(CONTEXT).encode([PackedRow((whole,))], NO_STREAMS, 0.0)
    plain = Completion(CONTEXT).loss(decoder(), everything)
    causal = Causal(CONTEXT).loss(decoder(), everything)
    assert float(plain.sum) == pytest.approx(float(causal.sum), rel=1e-6)
    assert float(Completion(CONTEXT).loss(decoder(), batch).sum) < float(plain.sum)


def test_smoothing_is_for_learning_and_zero_is_none():
    examples = rows_of(drawn(4, both=False), 2)
    batch = Completion(CONTEXT).encode(examples, NO_STREAMS, 0.0)
    losses = [
        float(Completion(CONTEXT, smoothing).loss(decoder(), batch).sum.detach()) for smoothing in (0.0, 0.0, 0.2)
    ]
    assert losses[0] == losses[1] != losses[2]
    with torch.no_grad():
        measured = Completion(CONTEXT, 0.2).loss(decoder(), batch, learning=False)
        assert float(measured.sum) == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("longest", [1, 64, 65, 200, 256])
def test_batches_are_as_wide_as_they_need(longest: int):
    example = Example(0, np.ones(longest + 1, np.int64), np.ones(longest + 1, bool))
    width = Completion(200 if longest <= 200 else 256).encode([PackedRow((example,))], NO_STREAMS, 0.0).inputs.shape[1]
    assert width == {1: 64, 64: 64, 65: 128, 200: 200, 256: 256}[longest]


def test_a_decoders_example_has_nothing_to_translate():
    with pytest.raises(ValueError, match="it was prepared for a decoder"):
        Seq2Seq(48).encode(rows_of(drawn(1, both=False), 1), NO_STREAMS, 0.0)


# Through the trainer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExampleSource:
    folder: Path = tmp_path_factory.mktemp("examples")
    with ExampleWriter(folder / "store", byte_level(), "decoder") as writer:
        for example in drawn(60, both=False, seed=1):
            writer.add("all", [str(example.number)], example.tokens, example.learned, None, len(example.tokens))
    return ExampleSource(writer.opened(), CONTEXT, seed=0)


class Hidden(Completion):
    """Answers of which some steps have no target at all."""

    def __init__(self, steps: set[int]) -> None:
        super().__init__(CONTEXT)
        object.__setattr__(self, "steps", steps)

    def encode(self, rows: Sequence[PackedRow], streams: Streams, progress: float) -> Batch:
        batch = super().encode(rows, streams, progress)
        if round(progress * 4) in self.steps:  # pyright: ignore[reportAttributeAccessIssue]
            batch.targets[:], batch.weight = IGNORED, 0.0
        return batch


def trainer_of(source: ExampleSource, objective: Any, micro_batch_size: int, capture: Capture) -> Trainer:
    return Trainer(
        lively(replace(SPEC, vocabulary=600, context=CONTEXT)),
        objective,
        BatchSource(source, objective, global_batch_size=4, micro_batch_size=micro_batch_size, steps=4, seed=0),
        optimizer=OptimizerOptions(),
        schedule=Schedule(warmup_steps=1),
        precision="fp32",
        device=torch.device("cpu"),
        steps=4,
        updates=[capture],
    )


def test_micro_batches_of_examples_add_up_to_the_batch(source: ExampleSource):
    captures = []
    for micro_batch_size in (1, 2, 4):
        capture = Capture()
        trainer_of(source, Completion(CONTEXT, label_smoothing=0.1), micro_batch_size, capture).run_step()
        captures.append(capture)
    for capture in captures[:2]:
        assert capture.weights == captures[2].weights
        assert capture.losses[0] == pytest.approx(captures[2].losses[0], rel=1e-5)
        assert distance(capture.gradients[0], captures[2].gradients[0]) < 1e-5


@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_a_step_without_targets_moves_nothing(source: ExampleSource, micro_batch_size: int):
    capture = Capture()
    trainer = trainer_of(source, Hidden({1, 2}), micro_batch_size, capture)
    reports = []
    for number in range(4):
        before = {name: weight.detach().clone() for name, weight in trainer.master_weights.weights.items()}
        reports.append(trainer.run_step())
        same = all(torch.equal(before[name], weight) for name, weight in trainer.master_weights.weights.items())
        assert same == (number in (1, 2))
    assert [report.applied for report in reports] == [True, False, False, True]
    assert [report.targets > 0 for report in reports] == [True, False, False, True]
    assert trainer.targets == sum(report.targets for report in reports)
    assert len(capture.losses) == 2


def test_a_micro_batch_without_targets_is_no_division_by_zero(source: ExampleSource):
    objective = Completion(CONTEXT)
    batch = objective.encode(source.rows(0, 2), NO_STREAMS, 0.0)
    batch.targets[:], batch.weight = IGNORED, 0.0
    model = lively(replace(SPEC, vocabulary=600, context=CONTEXT))
    loss: Loss = objective.loss(model, batch)
    loss.sum.backward()
    assert (float(loss.sum.detach()), loss.weight) == (0.0, 0.0)
    assert all(one.grad is None or not one.grad.any() for one in model.parameters())


def test_validation_counts_targets_and_the_bytes_that_they_spell(source: ExampleSource):
    manifest = source.store.manifest
    objective, model = Completion(CONTEXT), lively(replace(SPEC, vocabulary=600, context=CONTEXT)).eval()
    validation = Validation(source, source.rows_per_epoch, likelihood_metrics(manifest.bytes_per_token))
    loss = validation.measure(model, objective, 2, torch.device("cpu"))["loss"]
    whole = objective.loss(model, objective.encode(source.rows(0, source.rows_per_epoch), NO_STREAMS, 1.0))
    assert whole.weight == manifest.learned
    assert loss == pytest.approx(float(whole.sum.detach()) / manifest.learned, rel=1e-5)
    bits = float(whole.sum.detach()) / np.log(2) / manifest.learned_bytes
    assert validation.metrics(loss, {})["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_wrapped_models_keep_their_own_rule_of_shifting():
    model: HFModel = tiny.shared_model("bart")
    (example,) = drawn(1, both=True)
    batch = Seq2Seq(48, 48, model.decoder_inputs).encode([PackedRow((example,))], NO_STREAMS, 0.0)
    assert batch.inputs[0, : example.length].tolist() == [tiny.END, *example.tokens[:-1].tolist()]

"""Objectives around others: nothing at their neutral value, the same however a step is cut, resumed to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from hf_models import hf_model
from lavra.core.errors import InputError
from lavra.core.seeds import row_streams
from lavra.data.examples.store import Example, PackedRow
from lavra.models.heads import OrdinalHead, SequenceHead, attach_head, head_from_dict, width_of
from lavra.models.hf.model import set_dropout
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import MEASURED, Objective
from lavra.objectives.causal import Causal
from lavra.objectives.classify import Classify, LabelledText
from lavra.objectives.cutout import Cutout
from lavra.objectives.mixup import Mixup, partners
from lavra.objectives.multi_sample import MultiSampleDropout
from lavra.objectives.ordinal import Ordinal, rank_probabilities, ranks_of
from lavra.objectives.progressive_length import ProgressiveLength
from lavra.objectives.r_drop import RDrop
from lavra.objectives.random_crop import RandomCrop, cropped
from lavra.objectives.wrapping import innermost
from lavra.training.batches import BatchSource
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.step import halve
from lavra.training.trainer import Trainer
from lavra.training.updates import SharpnessAware
from lavra.training.validation import Validation
from tiny_training import CONTEXT, SPEC, Capture, all_tensors, assert_same_bits, distance, lively, run, tiny_trainer

SIZE, ROWS, STEPS = 3, 8, 4
MARK = 1
"""A special token, with which every text begins and ends."""

SPECIAL = np.arange(SPEC.vocabulary) == MARK
PROBABILITIES = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0.1, 0.9, 0.0], [0.25, 0.25, 0.5], [0, 1, 0]])
PLAIN = Classify(CONTEXT, SIZE)


def text(number: int, label: Any, weight: float = 1.0) -> LabelledText:
    random = np.random.default_rng(number)
    tokens = random.integers(2, SPEC.vocabulary, random.integers(4, 14))
    return LabelledText(number, np.r_[MARK, tokens, MARK], label, weight)


def classifier(dropout: float = 0.0, ordinal: bool = False) -> Decoder:
    model = lively(SPEC)
    head = (OrdinalHead if ordinal else SequenceHead)(width_of(model), SIZE, dropout=dropout)
    head.initialize(torch.Generator().manual_seed(0))
    attach_head(model, head)
    return model


class Texts:
    """Endless rows of one or two texts, with classes, probabilities, weights, and without a label."""

    def rows(self, start: int, count: int) -> list[list[LabelledText]]:
        return [
            [text(2 * n + part, self.label(2 * n + part), 0.5 + n % 2) for part in range(1 + n % 2)]
            for n in range(start, start + count)
        ]

    def label(self, number: int) -> Any:
        return (number % SIZE, None if number % 7 == 1 else 1, PROBABILITIES[number % 5])[number % 3]


def trainer_of(
    objective: Objective, micro_batch_size: int = ROWS, dropout: float = 0.0, ordinal: bool = False, model: Any = None
) -> Trainer:
    batches = BatchSource(
        Texts(), objective, global_batch_size=ROWS, micro_batch_size=micro_batch_size, steps=STEPS, seed=0
    )
    return Trainer(
        model or classifier(dropout, ordinal),
        objective,
        batches,
        optimizer=OptimizerOptions(),
        schedule=Schedule(warmup_steps=2),
        precision="fp32",
        device=torch.device("cpu"),
        steps=STEPS,
        updates=[Capture()],
    )


Make = Callable[[float], Objective]
"""Makes an objective around the plain one, neutral for 0 and as strong as usual for 1."""

TECHNIQUES: dict[str, Make] = {
    "mixup": lambda strength: Mixup(PLAIN, 0.4 * strength),
    "cutout by a mask": lambda strength: Cutout(PLAIN, SPECIAL, 0.4 * strength, mask_token=5),
    "cutout of embeddings": lambda strength: Cutout(PLAIN, SPECIAL, 0.4 * strength),
    "random crop": lambda strength: RandomCrop(PLAIN, SPECIAL, int(6 * strength)),
    "progressive length": lambda strength: ProgressiveLength(PLAIN, SPECIAL, CONTEXT, 0.9 * strength),
    "r-drop": lambda strength: RDrop(PLAIN, strength),
    "samples": lambda strength: MultiSampleDropout(PLAIN, 1 + int(3 * strength)),
    "crop, cutout and mixup": lambda strength: Mixup(
        RandomCrop(Cutout(PLAIN, SPECIAL, 0.4 * strength), SPECIAL, int(6 * strength)), 0.4 * strength
    ),
}
every = pytest.mark.parametrize("name", TECHNIQUES)
RANDOM_HEADS = ("r-drop", "samples")
"""What does something only where there is dropout."""


@every
def test_at_its_neutral_value_it_is_the_objective_inside(name: str):
    plain, neutral, strong = (trainer_of(one, 4, 0.2) for one in (PLAIN, TECHNIQUES[name](0), TECHNIQUES[name](1)))
    for trainer in (plain, neutral, strong):
        run(trainer)
    assert_same_bits(all_tensors(neutral), all_tensors(plain))
    assert distance(all_tensors(strong), all_tensors(plain)) > 1e-5


@every
def test_a_resumed_run_is_one_that_was_never_stopped(name: str):
    whole, first, second = (trainer_of(TECHNIQUES[name](1), 4, 0.2) for _ in range(3))
    run(whole)
    run(first, 2)
    saved = {group: {key: value.clone() for key, value in part.items()} for group, part in first.tensors().items()}
    second.restore(saved.__getitem__, first.state())
    run(second)
    assert_same_bits(all_tensors(second), all_tensors(whole))


@every
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_micro_batches_add_up_to_the_batch(name: str, micro_batch_size: int):
    objective = TECHNIQUES[name](1)
    if micro_batch_size % getattr(objective, "group", 1):
        with pytest.raises(InputError, match="mixes each 2 neighbouring rows"):
            trainer_of(objective, micro_batch_size)
        return
    whole, parts = trainer_of(objective), trainer_of(objective, micro_batch_size)
    for trainer in (whole, parts):
        trainer.step = 1
        run(trainer, 1)
    one, other = (trainer.updates[0] for trainer in (whole, parts))
    assert isinstance(one, Capture)
    assert isinstance(other, Capture)
    assert other.weights == pytest.approx(one.weights)
    assert other.losses == pytest.approx(one.losses, rel=1e-5)
    assert distance(other.gradients[0], one.gradients[0]) < 1e-5


@every
def test_what_is_measured_is_measured_without_it(name: str):
    validation = Validation(Texts(), 5, lambda loss, parts: {})  # pyright: ignore[reportArgumentType]
    model, device = classifier(0.2).eval(), torch.device("cpu")
    plain, wrapped = (validation.measure(model, one, 5, device) for one in (PLAIN, TECHNIQUES[name](1)))
    assert wrapped == plain
    batch = TECHNIQUES[name](1).encode(Texts().rows(0, 2), row_streams(0, "encode", first=0), 0.0)
    measured = TECHNIQUES[name](1).loss(model, batch, learning=False)
    assert measured.sum.item() == PLAIN.loss(model, batch, learning=False).sum.item()
    assert set(measured.parts) == {"accuracy"}


@every
def test_it_works_under_a_second_gradient(name: str):
    trainer = trainer_of(TECHNIQUES[name](1), 4, 0.2)
    trainer.updates.append(SharpnessAware(0.05, ascent_fraction=0.5))
    assert all(report.applied for report in run(trainer, 2))


def learned(objective: Objective, rows: int = 4, progress: float = 0.0, seed: int = 0) -> Batch:
    return objective.encode(Texts().rows(0, rows), row_streams(seed, "encode", first=0), progress)


@every
def test_a_wrapped_encoder_learns_with_it(name: str):
    model = hf_model("bert", vocab_size=SPEC.vocabulary)
    set_dropout(model, 0.1)
    attach_head(model, SequenceHead(width_of(model), SIZE, dropout=0.1))
    trainer = trainer_of(TECHNIQUES[name](1), 4, model=model)
    assert all(report.applied for report in run(trainer, 2))


# Cutout.


def test_cutout_hides_the_stated_share_of_the_tokens_and_no_special_one():
    batch = learned(Cutout(PLAIN, SPECIAL, 0.3), rows=400)
    hidden, ids = batch.model_inputs["cutout"], batch.inputs
    assert batch.document_ids is not None
    possible = (ids != MARK) & (batch.document_ids >= 0)
    assert not hidden[~possible].any()
    share, count = float(hidden[possible].float().mean()), int(possible.sum())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / count) ** 0.5
    plain = learned(PLAIN, rows=400)
    assert torch.equal(batch.inputs, plain.inputs)
    assert torch.equal(batch.targets, plain.targets)


def test_a_hidden_token_plays_no_part():
    objective, model = Cutout(PLAIN, SPECIAL, 0.5, mask_token=5), classifier()
    batch = learned(objective)
    hidden = batch.model_inputs["cutout"]
    others = replace(batch, inputs=batch.inputs.masked_fill(hidden, 77))
    assert objective.loss(model, others).sum.item() == objective.loss(model, batch).sum.item()
    assert PLAIN.loss(model, others).sum.item() != PLAIN.loss(model, batch).sum.item()


def test_cutout_works_for_language_models_too():
    objective = Cutout(Causal(CONTEXT), np.zeros(SPEC.vocabulary, bool), 0.2)
    plain, cut = tiny_trainer(), tiny_trainer(objective=objective)
    run(plain)
    run(cut)
    assert objective.isolate
    assert distance(all_tensors(cut), all_tensors(plain)) > 1e-4


# Crops.


@given(st.integers(0, 40), st.integers(1, 45), st.integers(0, 2), st.integers(0, 2), st.integers(0, 99))
def test_a_crop_is_a_window_between_the_special_tokens(size: int, length: int, before: int, after: int, seed: int):
    body = np.arange(2, 2 + size)
    tokens = np.r_[[MARK] * before, body, [MARK] * after].astype(np.int64)
    begin = np.random.default_rng(seed).integers
    [found] = cropped([LabelledText(0, tokens, 1)], length, SPECIAL, begin)
    if len(tokens) <= length or not size or length <= before + after:
        assert np.array_equal(found.tokens, tokens)
        return
    assert len(found.tokens) == length
    window = found.tokens[before : length - after]
    assert found.tokens[:before].tolist() == [MARK] * before
    assert found.tokens[length - after :].tolist() == [MARK] * after
    assert np.array_equal(window, np.arange(window[0], window[0] + len(window)))
    assert window.min() >= 2


def test_every_window_of_a_text_is_taken_as_often():
    tokens = np.r_[MARK, np.arange(2, 12), MARK]
    begin = np.random.default_rng(0).integers
    starts = [cropped([LabelledText(0, tokens, 1)], 6, SPECIAL, begin)[0].tokens[1] for _ in range(700)]
    counts = np.unique(starts, return_counts=True)
    assert counts[0].tolist() == list(range(2, 9))
    assert counts[1].min() > 60


def test_a_pair_is_left_whole_and_examples_of_a_store_are_cut():
    for pair in (
        LabelledText(0, np.r_[MARK, 2:9, MARK, 9:20, MARK], 1),
        LabelledText(0, np.r_[MARK, 2:20, MARK], 1, second=8),
    ):
        assert cropped([pair], 6, SPECIAL, lambda windows: 0)[0] is pair
    tokens = np.r_[MARK, 2:20, MARK]
    row = PackedRow((Example(3, tokens, np.zeros(len(tokens), bool), labels={"label": "a"}),))
    (found,) = cropped(row, 6, SPECIAL, lambda windows: windows - 1).examples
    assert found.tokens.tolist() == [MARK, 16, 17, 18, 19, MARK]
    assert (len(found.learned), found.labels, found.number) == (6, {"label": "a"}, 3)


def test_a_crop_is_another_one_in_the_next_epoch_and_the_whole_text_when_measured():
    objective = RandomCrop(PLAIN, SPECIAL, 6)
    one, again, other = (learned(objective, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(learned(objective, progress=MEASURED).inputs, learned(PLAIN).inputs)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.01, 0.99), st.integers(8, 600))
def test_the_length_grows_to_the_whole(early: float, late: float, over: float, whole: int):
    objective = ProgressiveLength(PLAIN, SPECIAL, whole, over)
    early, late = sorted((early, late))
    assert 8 <= objective.length_at(early) <= objective.length_at(late) <= whole
    assert objective.length_at(early) % 8 == 0 or early >= over
    assert objective.length_at(over) == whole


# Mixup.


def test_texts_are_paired_within_two_rows():
    assert partners(torch.tensor([0, 0, 0, 1, 2, 2])).tolist() == [1, 0, 2, 3, 5, 4]


@pytest.mark.parametrize("soft", [False, True])
def test_mixup_is_the_loss_of_mixed_vectors_and_labels(soft: bool):
    rows = [[text(n, PROBABILITIES[n] if soft else n % SIZE)] for n in range(4)]
    objective, model = Mixup(PLAIN, 0.5), classifier()
    batch = objective.encode(rows, row_streams(0, "encode", first=0), 0.0)
    shares = batch.model_inputs["mixup"][:, 0]
    assert bool(((shares > 0) & (shares < 1)).all())
    head: Any = model.task_head
    vectors = head.pooled(model.features(batch), batch)
    labels = torch.tensor(PROBABILITIES[:4]).float() if soft else F.one_hot(torch.arange(4) % SIZE, SIZE).float()
    partner, own = torch.tensor([1, 0, 3, 2]), shares[:, None]
    outputs = head.outputs(own * vectors + (1 - own) * vectors[partner])
    expected = F.cross_entropy(outputs, own * labels + (1 - own) * labels[partner], reduction="sum")
    loss = objective.loss(model, batch)
    assert loss.sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.weight == 4.0


def test_whole_shares_are_the_plain_texts():
    objective, model = Mixup(PLAIN, 0.5), classifier()
    batch = learned(objective)
    batch.model_inputs["mixup"] = torch.ones_like(batch.model_inputs["mixup"])
    gradients = []
    for one in (objective, PLAIN):
        model.zero_grad()
        loss = one.loss(model, batch)
        loss.sum.backward()
        gradients.append({name: part.grad for name, part in model.named_parameters() if part.grad is not None})
        gradients[-1]["loss"] = loss.sum.detach()
    assert_same_bits(*gradients)


def test_a_text_beside_one_without_a_label_is_not_mixed():
    rows = [[text(0, 2)], [text(1, None)]]
    objective, model = Mixup(PLAIN, 0.5), classifier()
    batch = objective.encode(rows, row_streams(0, "encode", first=0), 0.0)
    assert objective.loss(model, batch).sum.item() == PLAIN.loss(model, batch).sum.item()
    assert batch.targets[1, 0] == IGNORED


def test_memory_is_halved_to_whole_pairs():
    assert halve(8, 8, 2) == 4
    assert halve(6, 6, 2) == 2
    with pytest.raises(InputError, match="a micro-batch of 2 rows"):
        halve(2, 8, 2)


# R-Drop and dropout samples.


def test_r_drop_adds_the_divergence_of_two_passes():
    model = classifier(0.5)
    head: Any = model.task_head
    batch = learned(PLAIN)
    torch.manual_seed(3)
    one, other = (head(model.features(batch), batch).detach() for _ in range(2))
    torch.manual_seed(3)
    losses = [PLAIN.loss(model, batch).sum.item() for _ in range(2)]
    known = torch.tensor([row.label is not None for pair in Texts().rows(0, 4) for row in pair])
    weights = torch.tensor([row.weight for pair in Texts().rows(0, 4) for row in pair])
    p, q = one.softmax(-1), other.softmax(-1)
    divergence = (F.kl_div(q.log(), p, reduction="none") + F.kl_div(p.log(), q, reduction="none")).sum(-1) / 2
    torch.manual_seed(3)
    loss = RDrop(PLAIN, 0.7).loss(model, batch)
    expected = sum(losses) / 2 + 0.7 * float((divergence * weights * known).sum())
    assert loss.sum.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", [Classify(CONTEXT, SIZE, "labels"), Classify(CONTEXT, SIZE, "values"), PLAIN])
def test_the_divergence_of_equal_outputs_is_zero_and_otherwise_positive(objective: Classify):
    batch, outputs = learned(PLAIN), torch.randn(6, SIZE, generator=torch.Generator().manual_seed(0))
    assert float(objective.divergence(outputs, outputs.clone(), batch)) == 0
    assert float(objective.divergence(outputs, outputs.flip(0), batch)) > 0


def test_r_drop_needs_outputs_that_can_be_compared():
    with pytest.raises(InputError, match="needs an objective of classes"):
        RDrop(Causal(CONTEXT), 1.0)


@pytest.mark.parametrize("kind", ["logits", "losses"])
def test_dropout_samples_are_averaged(kind: str):
    """The body is computed once, and the variance over draws falls with the number of samples."""
    batch, found = learned(PLAIN), {}
    for samples in (1, 16):
        model = classifier(0.5)
        head: Any = model.task_head
        head.dropout_samples = samples if kind == "logits" else 1
        objective = MultiSampleDropout(PLAIN, samples if kind == "losses" else 1)
        torch.manual_seed(0)
        found[samples] = np.std([objective.loss(model, batch).sum.item() for _ in range(40)])
        model.eval()
        assert objective.loss(model, batch).sum.item() == pytest.approx(
            PLAIN.loss(classifier().eval(), batch).sum.item(), rel=1e-6
        )
    assert 0 < found[16] < found[1] / 2


def test_the_mean_of_logits_costs_less_than_the_mean_of_losses():
    """By convexity of the cross-entropy, the loss of the mean is at most the mean of the losses."""
    batch, model = learned(PLAIN), classifier(0.5)
    head: Any = model.task_head
    torch.manual_seed(0)
    losses = MultiSampleDropout(PLAIN, 400).loss(model, batch).sum.item()
    head.dropout_samples = 400
    assert PLAIN.loss(model, batch).sum.item() < losses


# Ranks.


def ranks(label: Any, **options: Any) -> float:
    objective, model = Ordinal(CONTEXT, SIZE, **options), classifier(ordinal=True)
    return float(objective.loss(model, objective.encode([[text(0, label)]], None, 0.0)).sum.detach())  # pyright: ignore[reportArgumentType]


def test_the_loss_of_a_rank_is_that_of_its_thresholds():
    model, objective = classifier(ordinal=True), Ordinal(CONTEXT, SIZE)
    batch = objective.encode([[text(0, 1)]], None, 0.0)  # pyright: ignore[reportArgumentType]
    outputs: torch.Tensor = model.task_head(model.features(batch), batch)  # pyright: ignore[reportCallIssue]
    assert outputs.shape == (1, SIZE - 1)
    expected = F.binary_cross_entropy_with_logits(outputs, torch.tensor([[1.0, 0.0]]), reduction="sum")
    assert ranks(1) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert ranks([0.0, 1.0, 0.0]) == pytest.approx(ranks(1), rel=1e-6)
    assert ranks([0.5, 0.0, 0.5]) == pytest.approx((ranks(0) + ranks(2)) / 2, rel=1e-6)
    assert ranks(2, label_smoothing=0.2) != pytest.approx(ranks(2))


def test_thresholds_fall_and_probabilities_of_ranks_add_up_to_one():
    head: Any = OrdinalHead(8, 6)
    with torch.no_grad():
        head.output.bias.copy_(torch.randn(5, generator=torch.Generator().manual_seed(0)))
    batch = Batch(torch.zeros(4, 3), torch.zeros(4, 3))
    outputs = head(torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(1)), batch)
    assert bool((outputs.diff(dim=-1) <= 0).all())
    for logits in (outputs, torch.randn(50, 5, generator=torch.Generator().manual_seed(2))):
        found = rank_probabilities(logits)
        assert found.shape == (len(logits), 6)
        assert float(found.min().detach()) >= 0
        torch.testing.assert_close(found.sum(-1), torch.ones(len(logits)))
    assert ranks_of(torch.tensor([[3.0, 1.0, -1.0]])).tolist() == [2]


def test_ranks_are_learned():
    objective = Ordinal(CONTEXT, SIZE)

    class Ranked(Texts):
        def rows(self, start: int, count: int) -> list[list[LabelledText]]:
            return super().rows(0, count)

        def label(self, number: int) -> Any:
            return number * 7 % SIZE

    trainer = trainer_of(objective, ordinal=True)
    trainer.batches.source = Ranked()  # pyright: ignore[reportAttributeAccessIssue]
    trainer.steps = 60
    reports = run(trainer)
    assert reports[-1].loss < 0.4 * reports[0].loss
    head = trainer.model.task_head  # pyright: ignore[reportAttributeAccessIssue]
    again = head_from_dict(head.to_dict())
    assert {name: one.shape for name, one in again.state_dict().items()} == {
        name: one.shape for name, one in head.state_dict().items()
    }
    batch = objective.encode(Ranked().rows(0, 4), row_streams(0, "x", first=0), MEASURED)
    loss = objective.loss(trainer.model, batch, learning=False)
    assert set(loss.parts) == {"accuracy", "absolute_error"}


def test_ranks_are_of_texts():
    with pytest.raises(InputError, match="at least two classes of texts"):
        Ordinal(CONTEXT, SIZE, tokens=True)
    with pytest.raises(InputError, match="no threshold"):
        OrdinalHead(8, 1)


# All of them.


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Mixup(PLAIN, -1.0), "a mixup of -1"),
        (lambda: Cutout(PLAIN, SPECIAL, 1.0), "a cutout of 1"),
        (lambda: RandomCrop(PLAIN, SPECIAL, -1), "a window of -1"),
        (lambda: ProgressiveLength(PLAIN, SPECIAL, 8, 1.0), "grow over 1"),
        (lambda: RDrop(PLAIN, -1.0), "a weight of -1"),
        (lambda: MultiSampleDropout(PLAIN, 0), "0 samples"),
    ],
)
def test_impossible_values_are_refused(make: Any, told: str):
    with pytest.raises(InputError, match=told):
        make()


def test_what_a_wrapper_lacks_is_that_of_the_objective_inside():
    wrapped = Mixup(Cutout(PLAIN, SPECIAL, 0.1), 0.2)
    assert (wrapped.size, wrapped.context, wrapped.outputs) == (SIZE, CONTEXT, "classes")
    assert innermost(wrapped) is PLAIN
    assert not hasattr(wrapped, "nothing")

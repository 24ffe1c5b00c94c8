"""Classification: each loss is that of torch, micro-batches add up, and what is neutral changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.heads import SequenceHead, TokenHead, attach_head, width_of
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss
from lavra.objectives.classify import Classify, LabelledText
from lavra.training.batches import BatchSource
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.trainer import Trainer
from lavra.training.validation import Validation
from tiny_training import CONTEXT, SPEC, Capture, all_tensors, assert_same_bits, distance, lively, run

SIZE = 3
ROWS = 6


def text(number: int, label: Any, weight: float = 1.0, length: int | None = None) -> LabelledText:
    random = np.random.default_rng(number)
    tokens = random.integers(0, SPEC.vocabulary, length or random.integers(2, 9))
    return LabelledText(number, tokens, label, weight)


def classifier(tokens: bool = False, size: int = SIZE) -> Decoder:
    model = lively(SPEC)
    width = width_of(model)
    head = TokenHead(width, size) if tokens else SequenceHead(width, size)
    head.initialize(torch.Generator().manual_seed(0))
    attach_head(model, head)
    return model


def encoded(objective: Classify, rows: Sequence[Sequence[LabelledText]]) -> Batch:
    return objective.encode(rows, None, 0.0)  # pyright: ignore[reportArgumentType]


def outputs_of(texts: Sequence[LabelledText], size: int = SIZE) -> torch.Tensor:
    """Return the (texts, size) outputs of each text by itself."""
    model = classifier(size=size)
    single = [encoded(Classify(CONTEXT, size), [[replace(one, label=None)]]) for one in texts]
    return torch.cat([model.task_head(model.features(batch), batch) for batch in single]).detach()  # pyright: ignore[reportCallIssue]


def loss_of(objective: Classify, rows: Sequence[Sequence[LabelledText]], learning: bool = True) -> Loss:
    batch = encoded(objective, rows)
    loss = objective.loss(classifier(objective.tokens, objective.size), batch, learning=learning)
    assert loss.weight == batch.weight
    return Loss(loss.sum.detach(), loss.weight)


HARD = [text(0, 2), text(1, 0, 0.5), text(2, None), text(3, 1, 2.0), text(4, 2)]
PROBABILITIES = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0.1, 0.9, 0.0], [0.25, 0.25, 0.5], [0, 1, 0]])
SOFT = [replace(one, label=q) for one, q in zip(HARD, PROBABILITIES, strict=True)]
WEIGHTS = torch.tensor([one.weight for one in HARD])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("packed", [True, False])
def test_classes(packed: bool, smoothing: float):
    rows = [HARD[:2], HARD[2:]] if packed else [[one] for one in HARD]
    targets = torch.tensor([IGNORED if one.label is None else one.label for one in HARD])
    losses = F.cross_entropy(outputs_of(HARD), targets, reduction="none", label_smoothing=smoothing)
    loss = loss_of(Classify(CONTEXT, SIZE, label_smoothing=smoothing), rows)
    assert float(loss.sum) == pytest.approx(float((losses * WEIGHTS).sum()), rel=1e-5)
    assert loss.weight == 4.5
    measured = loss_of(Classify(CONTEXT, SIZE, label_smoothing=smoothing), rows, learning=False)
    assert float(measured.sum) == pytest.approx(float(loss_of(Classify(CONTEXT, SIZE), rows).sum), rel=1e-6)


def test_class_weights_are_those_of_torch():
    by_class = (0.5, 2.0, 3.0)
    targets = torch.tensor([IGNORED if one.label is None else one.label for one in HARD])
    expected = F.cross_entropy(outputs_of(HARD), targets, weight=torch.tensor(by_class))
    loss = loss_of(Classify(CONTEXT, SIZE, class_weights=by_class), [[replace(one, weight=1.0)] for one in HARD])
    assert float(loss.sum) / loss.weight == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("by_class", [None, (0.5, 2.0, 3.0)])
def test_soft_classes(by_class: tuple[float, ...] | None):
    q, log_p = torch.tensor(PROBABILITIES), torch.log_softmax(outputs_of(SOFT).double(), -1)
    q = q if by_class is None else q * torch.tensor(by_class)
    loss = loss_of(Classify(CONTEXT, SIZE, class_weights=by_class), [SOFT[:2], SOFT[2:]])
    assert float(loss.sum) == pytest.approx(float(-((q * log_p).sum(-1) * WEIGHTS).sum()), rel=1e-5)
    assert loss.weight == pytest.approx(float((q.sum(-1) * WEIGHTS).sum()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("by_class", [None, (0.5, 2.0, 3.0)])
def test_certain_probabilities_are_classes(by_class: tuple[float, ...] | None, smoothing: float):
    certain = [one if one.label is None else replace(one, label=np.eye(SIZE)[one.label]) for one in HARD]  # pyright: ignore[reportArgumentType, reportCallIssue]
    objective = Classify(CONTEXT, SIZE, class_weights=by_class, label_smoothing=smoothing)
    hard = loss_of(objective, [HARD[:2], HARD[2:]])
    for texts in (certain, [*HARD[:3], *certain[3:]]):  # all of them, and beside classes in one batch
        soft = loss_of(objective, [texts[:2], texts[2:]])
        assert float(soft.sum) == pytest.approx(float(hard.sum), rel=1e-5)
        assert soft.weight == pytest.approx(hard.weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("by_class", [None, (0.5, 2.0, 3.0)])
def test_labels(by_class: tuple[float, ...] | None, smoothing: float):
    given = np.array([[1, 0, 1], [0, 0, 0], [0, 0.5, 1], [1, 1, 1], [0, 1, 0]])
    texts = [replace(one, label=labels) for one, labels in zip(HARD, given, strict=True)]
    texts[2] = replace(texts[2], label=None)
    smoothed = torch.tensor(given).float() * (1 - smoothing) + smoothing / 2
    factors = None if by_class is None else torch.tensor(by_class)
    losses = F.binary_cross_entropy_with_logits(outputs_of(texts), smoothed, weight=factors, reduction="none").mean(-1)
    losses[2] = 0.0
    objective = Classify(CONTEXT, SIZE, "labels", class_weights=by_class, label_smoothing=smoothing)
    loss = loss_of(objective, [texts[:2], texts[2:]])
    assert float(loss.sum) == pytest.approx(float((losses * WEIGHTS).sum()), rel=1e-5)
    assert loss.weight == 4.5


def test_values():
    texts = [replace(one, label=value) for one, value in zip(HARD, (0.5, -2.0, None, 7.0, 0.0), strict=True)]
    expected = [
        ((outputs_of([one], 1)[0, 0] - one.label) ** 2 * one.weight).item() for one in texts if one.label is not None
    ]
    loss = loss_of(Classify(CONTEXT, 1, "values"), [texts[:2], texts[2:]])
    assert float(loss.sum) == pytest.approx(sum(expected), rel=1e-5)
    assert loss.weight == 4.5


def test_classes_of_tokens():
    texts = [text(0, [2, IGNORED, 1], length=3), text(1, [0, 0], 0.5, length=2)]
    objective, model = Classify(CONTEXT, SIZE, tokens=True, class_weights=(1.0, 2.0, 4.0)), classifier(tokens=True)
    batch = encoded(objective, [texts])
    assert batch.targets[0, :6].tolist() == [2, IGNORED, 1, 0, 0, IGNORED]
    outputs = model.task_head(model.features(batch), batch)[0]  # pyright: ignore[reportCallIssue]
    losses = F.cross_entropy(outputs[:5], batch.targets[0, :5], reduction="none")
    loss = objective.loss(model, batch)
    assert float(loss.sum.detach()) == pytest.approx(
        float((losses.detach() * torch.tensor([4, 0, 2, 0.5, 0.5])).sum()), rel=1e-5
    )
    assert loss.weight == 7.0


# In training.


class Texts:
    """Endless rows of one or two texts."""

    def __init__(self, label: Callable[[int], Any]) -> None:
        self.label = label

    def rows(self, start: int, count: int) -> list[list[LabelledText]]:
        return [
            [text(2 * n + part, self.label(2 * n + part), 0.5 + n % 2) for part in range(1 + n % 2)]
            for n in range(start, start + count)
        ]


def captured(objective: Any, label: Callable[[int], Any], micro_batch_size: int = ROWS) -> tuple[Trainer, Capture]:
    capture = Capture()
    batches = BatchSource(
        Texts(label), objective, global_batch_size=ROWS, micro_batch_size=micro_batch_size, steps=3, seed=0
    )
    trainer = Trainer(
        classifier(objective.tokens),
        objective,
        batches,
        optimizer=OptimizerOptions(),
        schedule=Schedule(warmup_steps=2),
        precision="fp32",
        device=torch.device("cpu"),
        steps=3,
        updates=[capture],
    )
    run(trainer)
    return trainer, capture


def mixed(number: int) -> Any:
    """Return a class, nothing, or probabilities."""
    return (number % SIZE, None, PROBABILITIES[number % 5])[number % 3]


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_micro_batches_add_up(micro_batch_size: int):
    objective = Classify(CONTEXT, SIZE, class_weights=(0.5, 2.0, 3.0), label_smoothing=0.1)
    _, whole = captured(objective, mixed)
    _, parts = captured(objective, mixed, micro_batch_size)
    assert parts.weights == pytest.approx(whole.weights)
    assert parts.losses[0] == pytest.approx(whole.losses[0], rel=1e-5)
    assert distance(parts.gradients[0], whole.gradients[0]) < 1e-5


def test_what_is_neutral_moves_no_bit():
    plain, _ = captured(Classify(CONTEXT, SIZE), lambda number: number % SIZE)
    for neutral in (
        Classify(CONTEXT, SIZE, label_smoothing=0.0),
        Classify(CONTEXT, SIZE, class_weights=(1.0, 1.0, 1.0)),
    ):
        trainer, _ = captured(neutral, lambda number: number % SIZE)
        assert_same_bits(all_tensors(trainer), all_tensors(plain))


def test_validation_measures_it_without_smoothing():
    model = classifier().eval()
    plain, smoothed = Classify(CONTEXT, SIZE), Classify(CONTEXT, SIZE, label_smoothing=0.3)
    validation = Validation(Texts(lambda number: number % SIZE), 4, lambda loss, parts: {})
    found = [validation.measure(model, one, size, torch.device("cpu")) for one in (plain, smoothed) for size in (1, 4)]
    assert set(found[0]) == {"loss", "accuracy"}
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("form", ["classes", "probabilities", "labels"])
def test_accuracy_is_measured_with_the_weights_of_the_loss(form: str):
    texts = [one for one in HARD if one.label is not None]
    outputs, targets = outputs_of(texts), torch.tensor([one.label for one in texts])
    certain = np.eye(SIZE)[targets]
    if form != "classes":
        texts = [replace(one, label=q) for one, q in zip(texts, certain, strict=True)]
    objective = Classify(CONTEXT, SIZE, "labels" if form == "labels" else "classes")
    batch = encoded(objective, [texts[:2], texts[2:]])
    loss = objective.loss(classifier(), batch, learning=False)
    right = (outputs.argmax(-1) == targets).float()
    if form == "labels":
        right = ((outputs > 0) == torch.tensor(certain).bool()).float().mean(-1)
    expected = (right * torch.tensor([one.weight for one in texts])).sum()
    assert float(loss.parts["accuracy"]) == pytest.approx(float(expected))
    assert objective.loss(classifier(), batch).parts == {}


def test_a_head_of_another_size_is_refused():
    objective = Classify(CONTEXT, SIZE)
    with pytest.raises(InputError, match="5 outputs where 3 are learned"):
        objective.loss(classifier(size=5), encoded(objective, [[HARD[0]]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": "colours"}, "no 'colours'"),
        ({"outputs": "values", "tokens": True}, "values of tokens"),
        ({"class_weights": (1.0,)}, "1 class weights were given for 3"),
        ({"label_smoothing": 1.0}, "smoothing of 1.0"),
    ],
)
def test_options_that_are_impossible_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Classify(CONTEXT, SIZE, **options)


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (3, {}, "a class outside 0 to 2"),
        (-1, {}, "a class outside 0 to 2"),
        (1.5, {}, "no whole number"),
        ([0.0, float("nan"), 1.0], {"outputs": "values"}, "not finite"),
        ([0.5, 0.5], {}, "2 numbers for 3 outputs"),
        ([0.5, 0.5, 0.5], {}, "add up to 1.5"),
        ([2.0, 0.0, 0.0], {"outputs": "labels"}, "outside 0 to 1"),
        (1.0, {"outputs": "values"}, "1 numbers for 3 outputs"),
        ([1, 2], {"tokens": True}, "2 classes for 4 tokens"),
    ],
)
def test_labels_that_do_not_fit_are_refused(label: Any, options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        encoded(Classify(CONTEXT, SIZE, **options), [[text(0, label, length=4)]])

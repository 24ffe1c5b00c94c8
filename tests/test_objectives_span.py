"""Spans: each text has a softmax of its own, packed or not; micro-batches add up; what is neutral changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_models import FIRST, VOCABULARY, hf_model
from lavra.core.errors import InputError
from lavra.models.heads import SpanHead, TokenHead, attach_head, width_of
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch
from lavra.objectives.classify import LabelledText
from lavra.objectives.span import Span
from tiny_training import CONTEXT, SPEC, lively


def text(number: int, label: tuple[int, int] | None, length: int, weight: float = 1.0, low: int = 0) -> LabelledText:
    tokens = np.random.default_rng(number).integers(low, VOCABULARY, length)
    return LabelledText(number, tokens, label, weight)


TEXTS = [text(0, (2, 4), 7), text(1, (0, 0), 3, 0.5), text(2, None, 5), text(3, (1, 1), 6, 2.0), text(4, (7, 8), 9)]


def answering(head: Any = SpanHead) -> Decoder:
    model = lively(replace(SPEC, vocabulary=VOCABULARY))
    made = head(width_of(model))
    made.initialize(torch.Generator().manual_seed(0))
    attach_head(model, made)
    return model


def encoded(objective: Span, rows: Sequence[Sequence[LabelledText]]) -> Batch:
    return objective.encode(rows, None, 0.0)  # pyright: ignore[reportArgumentType]


def loss_and_gradient(model: Any, batches: Sequence[Batch], objective: Span) -> tuple[float, float, torch.Tensor]:
    """Return the summed loss and weight of the batches, and the gradient as one vector."""
    model.zero_grad()
    total = weight = 0.0
    for batch in batches:
        loss = objective.loss(model, batch)
        loss.sum.backward()
        total, weight = total + float(loss.sum.detach()), weight + loss.weight
    gradients = [parameter.grad for parameter in model.parameters()]
    return total, weight, torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_of_two_cross_entropies_over_the_tokens_of_the_text(smoothing: float):
    model, expected = answering(), 0.0
    for one in TEXTS:
        batch = encoded(Span(CONTEXT), [[one]])
        scores = model.task_head(model.features(batch), batch)[0, : len(one.tokens)].detach()  # pyright: ignore[reportCallIssue]
        if one.label is not None:
            targets = torch.tensor(one.label)
            losses = F.cross_entropy(scores.T, targets, reduction="none", label_smoothing=smoothing)
            expected += float(losses.mean()) * one.weight
    for rows in ([TEXTS[:2], TEXTS[2:]], [[one] for one in TEXTS]):
        loss = Span(CONTEXT, smoothing).loss(model, encoded(Span(CONTEXT), rows))
        assert float(loss.sum.detach()) == pytest.approx(expected, rel=1e-5)
        assert loss.weight == 4.5


@pytest.mark.parametrize("kind", ["decoder", "bert"])
def test_packed_texts_and_micro_batches_are_the_sum_of_the_texts(kind: str):
    if kind == "decoder":
        model: Any = answering()
    else:
        model = hf_model("bert")
        head = SpanHead(width_of(model))
        head.initialize(torch.Generator().manual_seed(0))
        attach_head(model, head)
    objective = Span(CONTEXT)
    texts = [text(n, one.label, len(one.tokens), one.weight, FIRST) for n, one in enumerate(TEXTS)]  # pyright: ignore[reportArgumentType]
    alone = [encoded(objective, [[one]]) for one in texts]
    total, weight, gradient = loss_and_gradient(model, alone, objective)
    packed = encoded(objective, [texts[:3], texts[3:]])
    for batches in ([packed], [packed.take(slice(0, 1)), packed.take(slice(1, 2))]):
        found, found_weight, found_gradient = loss_and_gradient(model, batches, objective)
        assert found == pytest.approx(total, rel=1e-5)
        assert found_weight == weight == 4.5
        assert (found_gradient - gradient).norm() < 1e-5 * gradient.norm()


def test_accuracy_counts_texts_both_of_whose_tokens_are_right():
    model, right = answering(), []
    for one in TEXTS:
        batch = encoded(Span(CONTEXT), [[one]])
        scores = model.task_head(model.features(batch), batch)[0, : len(one.tokens)]  # pyright: ignore[reportCallIssue]
        right.append(tuple(scores.argmax(0).tolist()))
    ordered = [first <= last for first, last in right]
    texts = [replace(one, label=right[n] if ordered[n] else (0, 0), weight=1.0) for n, one in enumerate(TEXTS)]
    expected = sum(one.label == right[n] for n, one in enumerate(texts))
    assert 0 < expected < len(texts)
    loss = Span(CONTEXT).loss(model, encoded(Span(CONTEXT), [texts[:2], texts[2:]]), learning=False)
    assert float(loss.parts["accuracy"]) == expected
    assert not Span(CONTEXT).loss(model, encoded(Span(CONTEXT), [texts])).parts


def test_equal_scores_have_the_loss_that_is_told_beforehand():
    model = answering()
    for parameter in model.task_head.parameters():  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        torch.nn.init.zeros_(parameter)
    texts = [replace(one, weight=1.0) for one in TEXTS]
    batch = encoded(Span(CONTEXT), [texts[:3], texts[3:]])
    loss = Span(CONTEXT).loss(model, batch)
    assert Span.uninformed_loss(batch) == pytest.approx(np.log([7, 3, 6, 9]).mean())
    assert float(loss.sum.detach()) / loss.weight == pytest.approx(Span.uninformed_loss(batch), rel=1e-6)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(InputError, match="text 0 of 7 tokens has an answer from token 5 to 7"):
        encoded(Span(CONTEXT), [[text(0, (5, 7), 7)]])
    with pytest.raises(InputError, match="from token 3 to 2"):
        encoded(Span(CONTEXT), [[text(0, (3, 2), 7)]])
    with pytest.raises(InputError, match="label smoothing"):
        Span(CONTEXT, 1.0)
    model = answering(lambda width: TokenHead(width, 3))
    with pytest.raises(InputError, match="3 outputs, not a beginning and an end"):
        Span(CONTEXT).loss(model, encoded(Span(CONTEXT), [TEXTS]))

"""Isolation: the loss of a packed batch of real text is that of its documents one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from lavra.config.choices import Positions
from lavra.data.packing import Window, WindowSource
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.causal import Causal
from lavra.training.acceleration.compiling import compile_blocks
from tiny_training import CONTEXT, SPEC, lively, topics_store

KINDS = get_args(Positions)
NO_RANDOMNESS: Any = None


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    """One epoch of the topics: windows of one document and of several, and a short last one."""
    source = WindowSource(topics_store(), CONTEXT, seed=1)
    rows = source.rows(0, source.order.windows)
    documents = [len(np.unique(window.document_ids)) for window in rows]
    assert max(documents) >= 2
    assert min(len(window) for window in rows) < CONTEXT
    return rows


def model_of(positions: str) -> Decoder:
    return lively(replace(SPEC, positions=positions)).eval()


def loss_and_gradient(model: Decoder, batches: list[Batch], objective: Causal) -> tuple[float, torch.Tensor]:
    """Return the summed loss of the batches, and its gradient as one vector."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = objective.loss(model, batch)
        loss.sum.backward()
        total += float(loss.sum.detach())
    gradients = [parameter.grad for parameter in model.parameters()]
    return total, torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def one_by_one(windows: list[Window]) -> list[Batch]:
    """Every document's part of every window as a batch of its own, without segments, positions or padding."""
    batches = []
    for window in windows:
        for segment in np.unique(window.document_ids):
            part = np.flatnonzero(window.document_ids == segment)
            inputs, targets = window.tokens[part], window.tokens[part + 1]
            batches.append(
                Batch(torch.from_numpy(inputs)[None], torch.from_numpy(targets)[None], weight=float(len(part)))
            )
    return batches


def assert_isolated(model: Decoder, windows: list[Window], alone_model: Decoder | None = None) -> None:
    objective = Causal(CONTEXT)
    packed = objective.encode(windows, NO_RANDOMNESS, 0.0)
    alone = one_by_one(windows)
    assert packed.weight == sum(batch.weight for batch in alone) == (packed.targets != IGNORED).sum()
    loss, gradient = loss_and_gradient(model, [packed], objective)
    expected, expected_gradient = loss_and_gradient(alone_model or model, alone, objective)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert (gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()


@pytest.mark.parametrize("positions", KINDS)
def test_a_packed_batch_is_the_sum_of_its_documents(positions: str, windows: list[Window]):
    assert_isolated(model_of(positions), windows)


@pytest.mark.parametrize("positions", KINDS)
def test_the_kernel_of_compiled_graphs_isolates_too(
    positions: str, windows: list[Window], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert_isolated(model_of(positions), windows)


@pytest.mark.heavy
@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_a_compiled_model_isolates_too(positions: str, windows: list[Window]):
    compiled, plain = model_of(positions), model_of(positions)
    compile_blocks(compiled)
    assert_isolated(compiled, windows, plain)


@pytest.mark.parametrize("positions", KINDS)
def test_without_isolation_the_loss_is_another(positions: str, windows: list[Window]):
    model = model_of(positions)
    isolated = Causal(CONTEXT).encode(windows, NO_RANDOMNESS, 0.0)
    mixed = Causal(CONTEXT, isolate=False).encode(windows, NO_RANDOMNESS, 0.0)
    assert torch.equal(isolated.targets, mixed.targets)
    objective = Causal(CONTEXT)
    losses = [float(objective.loss(model, batch).sum.detach()) for batch in (isolated, mixed)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("isolate", [True, False])
def test_padding_moves_nothing(isolate: bool, windows: list[Window]):
    """A short window gives the same loss in a wide row as in one of its own length, whatever the filling is."""
    model = model_of("learned")
    short = min(windows, key=len)
    filled = Causal(CONTEXT, isolate).encode([short], NO_RANDOMNESS, 0.0)
    exact = Causal(len(short), isolate).encode([short], NO_RANDOMNESS, 0.0)
    assert filled.inputs.shape[1] > exact.inputs.shape[1]
    expected, gradient = loss_and_gradient(model, [exact], Causal(CONTEXT))
    for filling in (0, 7):
        batch = replace(filled, inputs=filled.inputs.clone())
        batch.inputs[batch.targets == IGNORED] = filling
        loss, found = loss_and_gradient(model, [batch], Causal(CONTEXT))
        assert loss == pytest.approx(expected, rel=1e-6)
        assert (found - gradient).norm() < 1e-6 * gradient.norm()


def test_a_window_of_one_text_needs_no_mask(windows: list[Window]):
    whole = [window for window in windows if len(window) == CONTEXT][:2]
    batch = Causal(CONTEXT, isolate=False).encode(whole, NO_RANDOMNESS, 0.0)
    assert batch.document_ids is None
    assert batch.positions is None


def test_a_batch_names_its_documents(windows: list[Window]):
    batch = Causal(CONTEXT).encode(windows[:3], NO_RANDOMNESS, 0.0)
    assert set(batch.documents) == {int(number) for window in windows[:3] for number in window.documents}


def test_smoothing_is_for_learning_and_not_for_measuring(windows: list[Window]):
    model = model_of("rope")
    smoothed, plain = Causal(CONTEXT, label_smoothing=0.1), Causal(CONTEXT)
    batch = plain.encode(windows, NO_RANDOMNESS, 0.0)
    assert float(smoothed.loss(model, batch).sum.detach()) != pytest.approx(
        float(plain.loss(model, batch).sum.detach())
    )
    with torch.no_grad():
        assert float(smoothed.loss(model, batch, learning=False).sum) == float(plain.loss(model, batch).sum)

"""Replaced-token detection: its loss, what it draws, and the promises of every objective: ledger, isolation,
accumulation, order and resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lavra.checks.batches import alone, spans
from lavra.config.choices import Positions
from lavra.core.errors import InputError
from lavra.core.seeds import row_streams
from lavra.data.packing import Window, WindowSource
from lavra.models.presets import PRESETS
from lavra.models.protocols import IGNORED, REPLACEABLE, Batch
from lavra.models.replaced_tokens import ReplacedTokenHead, generator_spec
from lavra.models.spec import DecoderSpec
from lavra.objectives import cross_entropy
from lavra.objectives.replaced_tokens import DRAWS, ORIGINAL, RATE, ReplacedTokens, drawn_tokens
from lavra.objectives.z_loss import with_z_loss
from lavra.training.checkpoints.checkpoints import CheckpointStore
from replaced_tokens import detector, electra, encoder_spec, masked
from tiny_training import CONTEXT, Capture, all_tensors, assert_same_bits, distance, run, tiny_trainer, topics_store


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    """One epoch of the topics."""
    source = WindowSource(topics_store(), CONTEXT, seed=1)
    return source.rows(0, source.order.windows)


def encoded(windows: list[Window], seed: int = 0, objective: ReplacedTokens | None = None) -> Batch:
    return (objective or electra()).encode(windows, row_streams(seed, "test", first=0), 0.0)


def head_of(model: Any) -> ReplacedTokenHead:
    return model.task_head


def measured(model: Any, batches: list[Batch], objective: ReplacedTokens) -> tuple[float, torch.Tensor]:
    """Return the summed loss of batches and its gradient as one vector."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = objective.loss(model, batch)
        loss.sum.backward()
        total += float(loss.sum.detach())
    return total, torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


# What is learned.


def test_every_token_of_every_epoch_is_a_target_and_some_are_hidden(windows: list[Window]):
    batch = encoded(windows)
    assert batch.weight == topics_store().manifest.tokens == (batch.targets != IGNORED).sum()
    original, hidden = batch.model_inputs[ORIGINAL], batch.model_inputs[REPLACEABLE]
    for row, window in enumerate(windows):
        assert original[row, : len(window)].tolist() == window.tokens[1:].tolist()
        assert not hidden[row, len(window) :].any()
    assert (batch.inputs[~hidden] == original[~hidden]).all()
    behind = batch.inputs[hidden] == masked().mask_token
    assert 0.7 < behind.float().mean() < 1.0
    assert not masked().words.special[original[hidden].numpy()].any()
    assert 0.15 < hidden.sum() / batch.weight < 0.45


def test_the_loss_is_that_of_both_as_it_is_defined(windows: list[Window]):
    model, objective = detector().eval(), electra(detection=7.0)
    batch = encoded(windows[:6])
    head = head_of(model)
    found = objective.loss(model, batch)
    with torch.no_grad():
        hidden, original = batch.model_inputs[REPLACEABLE], batch.model_inputs[ORIGINAL]
        weight, bias = model.output_projection()
        features = head.generator.features(batch, model.embed(batch.inputs))
        logits = F.linear(features, weight, bias)[..., : model.vocabulary]
        generated = F.cross_entropy(logits[hidden], original[hidden], reduction="sum")
        sums = logits[hidden].softmax(-1).cumsum(-1)
        drawn = (sums < batch.model_inputs[DRAWS][hidden, None] * sums[:, -1:]).sum(-1)
        read = original.clone()
        read[hidden] = drawn
        odds = head.output(model.features(replace(batch, inputs=read)))[..., 0]
        asked = batch.targets != IGNORED
        replaced = (read != original).float()
        detected = F.binary_cross_entropy_with_logits(odds[asked], replaced[asked], reduction="sum")
    assert 0 < int(replaced.sum()) <= int(hidden.sum())
    assert float(found.sum.detach()) == pytest.approx(float(7.0 * detected + generated / 0.3), rel=1e-5)
    assert found.weight == batch.weight
    parts = objective.loss(model, batch, learning=False).parts
    assert int(parts["replaced"]) == int(replaced[asked].sum())
    assert int(parts["hidden"]) == int(hidden.sum())
    assert float(parts["generator_nats"]) == pytest.approx(float(generated), rel=1e-5)
    assert int(parts["found"]) == int(((odds > 0) & (replaced > 0) & asked).sum())


def test_the_detector_teaches_the_generator_nothing(windows: list[Window]):
    """Drawn tokens carry no gradient: the generator learns as by the masked objective alone."""
    batch = encoded(windows[:4])
    found = []
    for weight in (1.0, 1000.0):
        model = detector().eval()
        electra(detection=weight).loss(model, batch).sum.backward()
        found.append([one.grad for one in head_of(model).generator.parameters()])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert torch.equal(one, other)  # pyright: ignore[reportArgumentType]


def test_a_generator_that_knows_everything_replaces_nothing(windows: list[Window]):
    model, objective = detector().eval(), electra()
    batch = encoded(windows[:4])
    odd = encoded(windows[:4], objective=replace(objective, masked=masked(0.3)))
    assert torch.equal(batch.inputs, odd.inputs)
    weight, _ = model.output_projection()
    with torch.no_grad():
        sure = torch.zeros(int(batch.model_inputs[REPLACEABLE].sum()), weight.shape[1])
        bias = torch.full((weight.shape[0],), -50.0)
        for token in batch.model_inputs[ORIGINAL][batch.model_inputs[REPLACEABLE]].unique()[:1].tolist():
            bias[token] = 50.0
            drawn = drawn_tokens(sure, weight, bias, torch.rand(len(sure)), vocabulary=model.vocabulary)
            assert (drawn == token).all()


def test_embedding_and_output_projection_are_shared(windows: list[Window]):
    for tied in (False, True):
        model = detector(tied=tied)
        names = dict(model.named_parameters())
        assert not any("generator.embedding." in name or "generator.output." in name for name in names)
        own = names["embedding.weight" if tied else "output.weight"]
        assert own.requires_grad
        assert names["output.bias"].requires_grad
        assert not names["head_transform.linear.weight"].requires_grad if "head_transform.linear.weight" in names else 1
        electra().loss(model, encoded(windows[:2])).sum.backward()
        unused = [name for name, one in names.items() if one.requires_grad and one.grad is None]
        assert not unused


# What is drawn.


def test_tokens_are_drawn_as_often_as_they_are_likely(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_BYTES", 1)
    generator = torch.Generator().manual_seed(0)
    weight, feature = torch.randn(12, 4, generator=generator), torch.randn(1, 4, generator=generator)
    count = 20_000
    draws = torch.rand(count, generator=generator)
    drawn = drawn_tokens(feature.expand(count, -1), weight, None, draws, vocabulary=9)
    expected = (feature @ weight[:9].T).softmax(-1)[0] * count
    seen = torch.bincount(drawn, minlength=9).float()
    assert len(seen) == 9  # rows of padding are never drawn
    assert float(((seen - expected).square() / expected).sum()) < 26.1  # 8 degrees of freedom: p = 0.001


def test_the_ends_of_the_draw_are_tokens_that_are_possible():
    weight = torch.tensor([[-200.0], [0.0], [0.0], [-200.0]])
    ends = torch.tensor([0.0, 0.49, 0.51, float(np.nextafter(np.float32(1), np.float32(0)))])
    drawn = drawn_tokens(torch.ones(4, 1), weight, None, ends, vocabulary=4)
    assert drawn[1:].tolist() == [1, 2, 2]
    assert drawn_tokens(torch.ones(0, 1), weight, None, torch.zeros(0), vocabulary=4).shape == (0,)


# The promises of every objective.


@pytest.mark.parametrize("positions", get_args(Positions))
def test_a_packed_batch_is_the_sum_of_its_documents(positions: str, windows: list[Window]):
    model, objective = detector(positions=positions).eval(), electra()
    batch = encoded(windows)
    singles = [alone(batch, row, span) for row in range(len(windows)) for span in spans(batch, row)]
    assert len(singles) > len(windows)
    together, gradient = measured(model, [batch], objective)
    apart, expected = measured(model, singles, objective)
    assert together == pytest.approx(apart, rel=1e-5)
    assert (gradient - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_micro_batches_add_up_to_the_batch(micro_batch_size: int):
    found = []
    for rows in (8, micro_batch_size):
        capture = Capture()
        trainer = tiny_trainer(
            model=detector(), objective=electra(), global_batch_size=8, micro_batch_size=rows,
            updates=lambda _, capture=capture: [capture],
        )  # fmt: skip
        run(trainer, 1)
        found.append(capture)
    assert found[0].weights == found[1].weights
    assert found[1].losses[0] == pytest.approx(found[0].losses[0], rel=1e-5)
    assert distance(found[1].gradients[0], found[0].gradients[0]) < 1e-4


def test_stopped_and_gone_on_is_never_stopped(tmp_path: Path):
    def trainer() -> Any:
        return tiny_trainer(model=detector(dropout=0.1), objective=electra(), steps=4)

    straight, stopped = trainer(), trainer()
    reports = run(straight)
    found = run(stopped, 2)
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(stopped.step, stopped.tensors(), stopped.state(), background=False)
    again, checkpoint = trainer(), CheckpointStore(tmp_path / "checkpoints").latest()
    assert checkpoint is not None
    assert any("generator" in name for name in checkpoint.load("master_weights"))
    again.restore(checkpoint.load, checkpoint.state)
    assert found + run(again) == reports
    assert_same_bits(all_tensors(again), all_tensors(straight))


def test_what_is_hidden_and_drawn_is_a_function_of_seed_and_row(windows: list[Window]):
    one, other, another = encoded(windows[:4]), encoded(windows[:4]), encoded(windows[:4], seed=1)
    last = electra().encode(windows[3:4], lambda place: row_streams(0, "test", first=3)(place), 0.0)
    for name in (REPLACEABLE, DRAWS, ORIGINAL):
        assert torch.equal(one.model_inputs[name], other.model_inputs[name])
        assert torch.equal(one.model_inputs[name][3:], last.model_inputs[name])
    assert not torch.equal(one.model_inputs[DRAWS], another.model_inputs[DRAWS])
    assert not torch.equal(one.model_inputs[REPLACEABLE], another.model_inputs[REPLACEABLE])


def test_the_masking_rate_follows_the_run(windows: list[Window]):
    changing = electra()
    changing = replace(changing, masked=replace(changing.masked, rate=0.4, final_rate=0.1))
    for progress, rate in ((0.0, 0.4), (0.5, 0.25), (1.0, 0.1)):
        batch = changing.encode(windows, row_streams(0, "test", first=0), progress)
        assert float(batch.model_inputs[RATE]) == pytest.approx(rate)


def test_weights_of_one_are_no_weights_and_zeros_are_nothing(windows: list[Window]):
    model, objective = detector().eval(), electra()
    batch = encoded(windows[:4])
    plain = objective.loss(model, batch)
    ones = objective.loss(model, batch.weighted(torch.ones_like(batch.targets, dtype=torch.float32)))
    assert (float(plain.sum), plain.weight) == (pytest.approx(float(ones.sum), rel=1e-6), ones.weight)
    none = objective.loss(model, batch.weighted(torch.zeros_like(batch.targets, dtype=torch.float32)))
    assert float(none.sum) == 0.0


def test_smoothing_and_z_loss_are_for_learning(windows: list[Window]):
    model, batch = detector().eval(), encoded(windows[:4])
    plain = electra()
    for changed in (replace(plain, label_smoothing=0.1), with_z_loss(plain, 1e-2)):
        assert float(changed.loss(model, batch).sum) != float(plain.loss(model, batch).sum)
        with torch.no_grad():
            measured_of = [float(one.loss(model, batch, learning=False).sum) for one in (changed, plain)]
        assert measured_of[0] == measured_of[1]


def test_an_untrained_pair_knows_nothing(windows: list[Window]):
    model, objective = detector(lively=False).eval(), electra()
    batch = encoded(windows)
    with torch.no_grad():
        loss = objective.loss(model, batch, learning=False)
    assert float(loss.sum) / loss.weight == pytest.approx(objective.uninformed_loss(batch), rel=0.03)


# The generator's shape.


@pytest.mark.parametrize("name", ["bert-mini", "bert-base", "modernbert-small", "lavra-9m"])
def test_a_generator_is_as_deep_and_a_quarter_as_wide(name: str):
    spec = replace(PRESETS[name], architecture="encoder")
    small = generator_spec(spec, 0.25)
    assert small.depth == spec.depth
    assert small.width == pytest.approx(spec.width / 4, abs=spec.heads * 8)
    assert small.hidden_width == pytest.approx(spec.hidden_width / 4, abs=8)
    assert small.size_of_embedding == spec.size_of_embedding
    assert DecoderSpec.from_dict(small.to_dict()) == small


def test_shares_and_weights_out_of_range_are_refused():
    with pytest.raises(InputError, match="generator-share 0"):
        generator_spec(encoder_spec(), 0.0)
    with pytest.raises(InputError, match="generator-share 2"):
        generator_spec(encoder_spec(), 2.0)
    with pytest.raises(InputError, match="detection-weight"):
        electra(detection=0.0)

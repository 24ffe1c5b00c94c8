"""Objectives of embeddings: each is what its formula says, and micro-batches of it are one big batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import hf_models as tiny
from lavra.core.errors import InputError
from lavra.core.seeds import row_streams
from lavra.models.heads import EmbeddingHead, attach_head, width_of
from lavra.models.reconstruction import ReconstructingHead
from lavra.objectives.base import ComparingObjective, Loss
from lavra.objectives.contrastive import Contrastive
from lavra.objectives.embedding.cosent import CoSENT
from lavra.objectives.embedding.cosine_regression import CosineRegression
from lavra.objectives.embedding.margin_mse import MarginMSE
from lavra.objectives.embedding.matryoshka import ComparingMatryoshka, Matryoshka, matryoshka
from lavra.objectives.embedding.rows import INFO, PairRow
from lavra.objectives.embedding.simcse import SimCSE
from lavra.objectives.embedding.tsdae import TSDAE
from lavra.objectives.wrapping import innermost
from lavra.training.batches import BatchSource
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.trainer import Trainer
from tiny_training import CONTEXT, SPEC, Capture, all_tensors, assert_same_bits, distance, lively, run

ROWS, STEPS = 8, 3
SPECIAL = np.arange(SPEC.vocabulary) < 3
"""Ids of the tiny vocabulary that stand for special tokens in these tests."""


class Scored:
    """Endless rows of two texts, a negative and a score, which differ from row to row."""

    def rows(self, start: int, count: int) -> list[PairRow]:
        return [self.row(number) for number in range(start, start + count)]

    def row(self, number: int) -> PairRow:
        texts = [self.text(number, part) for part in range(3)]
        weight = 0.5 + number % 2
        return PairRow(number, texts[0], texts[1], (texts[2],), weight, score=float(number % 5))

    @staticmethod
    def text(number: int, part: int) -> np.ndarray:
        random = np.random.default_rng((number, part))
        words = random.integers(3, SPEC.vocabulary, random.integers(2, 18))
        return np.array([1, *words, 2])


def trainer(
    objective: Any, *, micro_batch_size: int = ROWS, dropout: float = 0.0, capture: Capture | None = None
) -> Trainer:
    model = lively(replace(SPEC, dropout=dropout))
    head = (ReconstructingHead if isinstance(innermost(objective), TSDAE) else EmbeddingHead)(width_of(model))
    head.initialize(torch.Generator().manual_seed(3))
    attach_head(model, head)
    batches = BatchSource(
        Scored(), objective, global_batch_size=ROWS, micro_batch_size=micro_batch_size, steps=STEPS, seed=0
    )
    found = Trainer(
        model,
        objective,
        batches,
        optimizer=OptimizerOptions(),
        schedule=Schedule(warmup_steps=2),
        precision="fp32",
        device=torch.device("cpu"),
        steps=STEPS,
    )
    found.updates = [] if capture is None else [capture]
    return found


def first_step(objective: Any, **options: Any) -> Capture:
    capture = Capture()
    run(trainer(objective, capture=capture, **options), 1)
    return capture


OBJECTIVES: dict[str, Any] = {
    "contrastive": Contrastive(CONTEXT, temperature=0.3),
    "contrastive packed": Contrastive(CONTEXT, temperature=0.3, isolate=True),
    "cosent": CoSENT(CONTEXT, temperature=0.3, isolate=True),
    "cosine-regression": CosineRegression(CONTEXT, 0.0, 4.0, isolate=True),
    "margin-mse": MarginMSE(CONTEXT, temperature=0.3, isolate=True),
    "simcse": SimCSE(CONTEXT, temperature=0.3, isolate=True),
    "tsdae": TSDAE(CONTEXT, SPECIAL),
    "matryoshka of cosent": matryoshka(CoSENT(CONTEXT, temperature=0.3), (32, 8)),
    "matryoshka of tsdae": matryoshka(TSDAE(CONTEXT, SPECIAL), (32, 8)),
}


@pytest.mark.parametrize("micro_batch_size", [1, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_are_one_big_batch(name: str, micro_batch_size: int):
    whole, parts = (first_step(OBJECTIVES[name], micro_batch_size=size) for size in (ROWS, micro_batch_size))
    assert parts.weights == pytest.approx(whole.weights)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    assert distance(parts.gradients[0], whole.gradients[0]) < 1e-5
    assert whole.losses[0] > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_is_the_run_to_the_bit(name: str):
    whole, first, second = (trainer(OBJECTIVES[name], micro_batch_size=4, dropout=0.1) for _ in range(3))
    run(whole)
    run(first, 1)
    second.restore(first.tensors().__getitem__, first.state())
    run(second)
    assert_same_bits(all_tensors(second), all_tensors(whole))


# Texts that share a sequence.


@pytest.mark.parametrize("name", ["ours", "bert", "llama", "modernbert"])
def test_texts_that_share_a_sequence_have_the_vectors_of_texts_alone(name: str):
    model: Any = lively(SPEC).eval() if name == "ours" else tiny.hf_model(name)
    attach_head(model, EmbeddingHead(width_of(model)))
    rows = [
        PairRow(number, *(np.random.default_rng((number, part)).integers(6, 64, 3 + number + part) for part in (0, 1)))
        for number in range(6)
    ]
    vectors, known = [], []
    for isolate in (False, True):
        objective = Contrastive(64, isolate=isolate)
        batch = objective.encode(rows, row_streams(0, "test", first=0), 0.0)
        with torch.no_grad():
            vectors.append(objective.embed(model, batch))
        known.append(objective.info(batch))
    assert batch.inputs.shape[0] < 2 * len(rows)  # the second batch shares sequences
    torch.testing.assert_close(vectors[0], vectors[1], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(known[0][field], known[1][field]) for field in ("roles", "keys", "row_weights"))


def test_vectors_are_compared_by_the_cosine_also_where_the_head_leaves_their_length():
    model = lively(SPEC).eval()
    attach_head(model, EmbeddingHead(width_of(model), normalise=False))
    objective = Contrastive(CONTEXT)
    with torch.no_grad():
        vectors = objective.embed(model, objective.encode(Scored().rows(0, 3), row_streams(0, "t", first=0), 0.0))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))


# The losses themselves.


def compared(
    objective: Any, scores: Sequence[float], vectors: torch.Tensor, weights: Sequence[float] = (), **how: Any
) -> Loss:
    """Return the loss of pairs whose texts are all different, from their vectors, anchor and positive in turn."""
    weights = weights or [1.0] * len(scores)
    pairs = zip(scores, weights, strict=True)
    rows = [PairRow(n, np.array([2 * n]), np.array([2 * n + 1]), (), w, s) for n, (s, w) in enumerate(pairs)]
    batch = objective.encode(rows, None, 0.0)
    loss = objective.compare(vectors, objective.info(batch), **how)
    assert loss.weight == pytest.approx(batch.weight)
    return loss


def some_vectors(count: int, seed: int = 1) -> torch.Tensor:
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)


def cosines(vectors: torch.Tensor) -> list[float]:
    return (vectors[::2] * vectors[1::2]).sum(-1).tolist()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_cosent_is_the_logarithm_of_what_is_in_the_wrong_order(scores: list[int], seed: int):
    vectors = some_vectors(2 * len(scores), seed)
    near = cosines(vectors)
    terms = [
        math.exp((near[b] - near[a]) / 0.1)
        for a in range(len(scores))
        for b in range(len(scores))
        if scores[a] > scores[b]
    ]
    found = compared(CoSENT(4, temperature=0.1), [float(one) for one in scores], vectors)
    assert float(found.sum) / found.weight == pytest.approx(math.log1p(sum(terms)), rel=1e-4, abs=1e-6)


def test_cosent_does_not_compare_pairs_of_equal_score_and_asks_for_the_order_alone():
    vectors = some_vectors(8).requires_grad_()
    equal = compared(CoSENT(4), [2.0] * 4, vectors)
    assert equal.sum.item() == 0.0
    assert not torch.autograd.grad(equal.sum, vectors)[0].any()
    # A pair of the same score as another changes only what is compared with the pairs of other scores.
    one = compared(CoSENT(4), [1.0, 1.0, 3.0, 2.0], vectors.detach())
    other = compared(CoSENT(4), [-5.0, -5.0, 100.0, 0.5], vectors.detach())
    assert torch.equal(one.sum, other.sum)


def test_cosine_regression_is_the_squared_error_of_the_score_from_zero_to_one():
    vectors = some_vectors(6)
    loss = compared(CosineRegression(4, 1.0, 5.0), [1.0, 5.0, 3.0], vectors, [1.0, 2.0, 0.0])
    errors = [(near - wanted) ** 2 for near, wanted in zip(cosines(vectors), (0.0, 1.0, 0.5), strict=True)]
    assert float(loss.sum) == pytest.approx(errors[0] + 2 * errors[1], rel=1e-5)
    assert loss.weight == 3.0


def test_what_is_only_measured_tells_the_correlations():
    scores = [float(number**2) for number in range(20)]
    angles = torch.linspace(1.5, 0.1, 20)
    vectors = torch.stack([torch.tensor([1.0, 0.0]).expand(20, 2), torch.stack([angles.cos(), angles.sin()], 1)], 1)
    loss = compared(CoSENT(4), scores, vectors.flatten(0, 1), learning=False)
    assert float(loss.parts["spearman"]) / loss.weight == pytest.approx(1.0)
    wanted = np.corrcoef(angles.cos().numpy(), scores)[0, 1]
    assert float(loss.parts["pearson"]) / loss.weight == pytest.approx(wanted, abs=1e-5)
    assert not compared(CoSENT(4), scores[:9], vectors.flatten(0, 1)[:18], learning=False).parts  # too few to say


def margins(vectors: torch.Tensor, wanted: Sequence[float], temperature: float) -> Loss:
    objective = MarginMSE(4, temperature)
    rows = [
        PairRow(n, np.array([3 * n]), np.array([3 * n + 1]), (np.array([3 * n + 2]),), 1.0, one)
        for n, one in enumerate(wanted)
    ]
    batch = objective.encode(rows, None, 0.0)  # pyright: ignore[reportArgumentType]
    return objective.compare(vectors, objective.info(batch), learning=False)


def test_margin_mse_is_the_squared_error_of_the_margin():
    vectors = some_vectors(6)
    query, positive, negative = (vectors[part::3] for part in range(3))
    apart = ((query * positive).sum(-1) - (query * negative).sum(-1)) / 0.5
    assert float(margins(vectors, [0.5, -1.0], 0.5).sum) == pytest.approx(
        float((apart - torch.tensor([0.5, -1.0])).square().sum()), rel=1e-5
    )
    assert float(margins(vectors, apart.tolist(), 0.5).sum) == pytest.approx(0.0, abs=1e-9)


def test_margin_mse_of_equal_texts_without_a_margin_is_zero():
    vectors = some_vectors(2)
    same = torch.stack([vectors[0], vectors[1], vectors[1]])
    loss = margins(same, [0.0], 0.05)
    assert (float(loss.sum), float(loss.parts["accuracy"])) == (0.0, 0.0)
    with pytest.raises(InputError, match="row 7 has no negative"):
        MarginMSE(4).encode([PairRow(7, np.array([1]), np.array([2]))], None, 0.0)  # pyright: ignore[reportArgumentType]


def test_the_views_of_simcse_differ_by_dropout_alone():
    objective = SimCSE(CONTEXT, isolate=True)
    for dropout in (0.0, 0.3):
        model = lively(replace(SPEC, dropout=dropout)).train()
        attach_head(model, EmbeddingHead(width_of(model)))
        batch = objective.encode(Scored().rows(0, 4), row_streams(0, "t", first=0), 0.0)
        vectors = objective.embed(model, batch)
        assert len(vectors) == 8
        assert torch.allclose(vectors[::2], vectors[1::2], atol=1e-5) == (dropout == 0.0)
    loss = objective.compare(vectors, objective.info(batch))
    assert loss.weight == batch.weight == pytest.approx(sum(row.weight for row in Scored().rows(0, 4)))


# TSDAE.


def encoded(objective: TSDAE, count: int = 4) -> Any:
    return objective.encode(Scored().rows(0, count), row_streams(0, "t", first=0), 0.0)


def test_without_deletion_the_whole_text_is_read():
    batch = encoded(TSDAE(CONTEXT, SPECIAL, deleted=0.0))
    for number, row in enumerate(Scored().rows(0, 4)):
        ids = batch.model_inputs["left"][number][batch.model_inputs["left_ids"][number] >= 0]
        assert ids.tolist() == row.anchor.tolist()
        wanted = batch.targets[number]
        assert wanted[wanted >= 0].tolist() == row.anchor[1:].tolist()  # without the token that begins every text


def test_six_of_ten_words_are_deleted_and_never_a_special_token_or_all():
    batch = encoded(TSDAE(CONTEXT, SPECIAL), 400)
    left = (batch.model_inputs["left_ids"] >= 0).sum(1)
    words = torch.tensor([len(row.anchor) - 2 for row in Scored().rows(0, 400)])
    assert float((left - 2).sum() / words.sum()) == pytest.approx(0.4, abs=0.03)
    assert int((left - 2).min()) == 1
    assert bool((batch.model_inputs["left"][:, 0] == 1).all())
    short = TSDAE(CONTEXT, SPECIAL, deleted=0.99).encode(Scored().rows(0, 9), row_streams(0, "t", first=0), 0.0)
    assert (short.model_inputs["left_ids"] >= 0).sum(1).tolist() == [3] * 9


def test_the_decoder_sees_one_vector_and_nothing_else_of_the_encoder():
    objective, made = TSDAE(CONTEXT, SPECIAL), trainer(TSDAE(CONTEXT, SPECIAL))
    batch, model = encoded(objective), made.model
    vectors = objective.embed(model, batch).detach()
    other = replace(batch, model_inputs={**batch.model_inputs, "left": batch.model_inputs["left"].flip(1)})
    assert torch.equal(objective.judge(model, vectors, batch).sum, objective.judge(model, vectors, other).sum)
    assert not torch.equal(objective.loss(model, batch).sum, objective.loss(model, other).sum)


def test_a_text_is_learned_by_its_vector():
    made = trainer(TSDAE(CONTEXT, SPECIAL))
    losses = [report.loss for report in run(made)]
    assert losses[-1] < losses[0]
    assert losses[0] == pytest.approx(math.log(SPEC.vocabulary), rel=0.2)


def test_a_model_whose_word_embeddings_have_another_size_is_told():
    objective = TSDAE(CONTEXT, SPECIAL)
    model = trainer(objective).model
    with pytest.raises(InputError, match="word embeddings have 32 dimensions, and the vectors 48"):
        objective.judge(model, torch.zeros(4, 48), encoded(objective))


# Matryoshka.


@pytest.mark.parametrize(
    "inner", [Contrastive(CONTEXT), CoSENT(CONTEXT), TSDAE(CONTEXT, SPECIAL)], ids=["nce", "cosent", "tsdae"]
)
def test_matryoshka_at_the_whole_size_is_the_plain_run_to_the_bit(inner: Any):
    plain = trainer(inner, micro_batch_size=4)
    nested = trainer(matryoshka(inner, (SPEC.width,)), micro_batch_size=4)
    run(plain), run(nested)
    assert_same_bits(all_tensors(nested), all_tensors(plain))


def test_matryoshka_compares_the_first_numbers_as_vectors_of_their_own():
    vectors = some_vectors(6)
    objective: Any = matryoshka(CosineRegression(4, 0.0, 1.0), (6, 2))
    assert isinstance(objective, ComparingMatryoshka)
    assert isinstance(objective, ComparingObjective)
    short = F.normalize(vectors[:, :2], dim=-1)
    whole, first = (compared(CosineRegression(4, 0.0, 1.0), [0.0, 1.0, 0.5], one) for one in (vectors, short))
    both = compared(objective, [0.0, 1.0, 0.5], vectors)
    assert float(both.sum) == pytest.approx((float(whole.sum) + float(first.sum)) / 2, rel=1e-5)
    measured = compared(objective, [0.0, 1.0, 0.5], vectors, learning=False)
    assert torch.equal(measured.sum, whole.sum)
    assert matryoshka(objective.inner, ()) is objective.inner


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoSENT(4, temperature=0.0), "not above 0"),
        (lambda: MarginMSE(4, temperature=-1.0), "not above 0"),
        (lambda: CosineRegression(4, 2.0, 2.0), "do not differ"),
        (lambda: TSDAE(4, SPECIAL, deleted=1.0), "cannot be deleted"),
        (lambda: Matryoshka(CoSENT(4), (0,)), "no sizes of vectors"),
        (lambda: compared(matryoshka(CoSENT(4), (9,)), [1.0, 2.0], some_vectors(4)), "have no first 9"),
    ],
)
def test_what_cannot_be_learned_is_refused(make: Any, message: str):
    with pytest.raises(InputError, match=message):
        make()


def test_what_is_known_of_texts_has_names():
    batch = Contrastive(CONTEXT).encode(Scored().rows(0, 2), row_streams(0, "t", first=0), 0.0)
    assert set(Contrastive(CONTEXT).info(batch)) == set(INFO)

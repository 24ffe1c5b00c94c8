"""A first embedding and head from counts of pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lavra.data.token_store.ngram_counts import Bigrams, count_bigrams
from lavra.models.native.bigram_init import (
    _gradients,
    _Table,
    can_init_from_bigrams,
    flops_of_context,
    init_from_bigrams,
    loss_by_bigrams,
)
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec
from tiny_training import SPEC, topics_store


def corpus() -> tuple[np.ndarray, Bigrams]:
    """Return the tokens of Python's documentation, and their pairs."""
    tokens = np.asarray(topics_store().tokens)
    return tokens, count_bigrams(tokens, SPEC.vocabulary)


def started(spec: DecoderSpec, contexts: int) -> Decoder:
    """Return a decoder that begins with the pairs."""
    model = build_decoder(spec, 0)
    init_from_bigrams(model.embedding.weight.detach(), model.output.weight.detach(), corpus()[1], contexts)
    return model


def loss_of(model: Decoder, tokens: np.ndarray) -> float:
    """Return the mean nats of the tokens in windows."""
    length = SPEC.context
    rows = torch.from_numpy(tokens[: len(tokens) // length * length].astype(np.int64)).view(-1, length)
    with torch.no_grad():
        logits = model.head(model(rows[:, :-1]))
    return float(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))


def test_a_model_knows_the_pairs_of_its_text_before_its_first_step() -> None:
    tokens, bigrams = corpus()
    before, after = loss_of(build_decoder(SPEC, 0), tokens), loss_of(started(SPEC, SPEC.vocabulary), tokens)
    counts = np.bincount(tokens, minlength=SPEC.vocabulary).astype(float)
    shares = counts[counts > 0] / counts.sum()
    unigram = -float((shares * np.log(shares)).sum())
    assert before == pytest.approx(np.log(SPEC.vocabulary), rel=1e-3)
    assert after < unigram - 0.5
    assert len(bigrams.followers) > 0


def test_the_loss_it_reports_is_that_of_the_smoothed_table() -> None:
    _, bigrams = corpus()
    table = _Table.of(bigrams, 50, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(table.share), 8, generator=generator)
    weight = torch.randn(SPEC.vocabulary, 8, generator=generator)
    loss, slope, wide = _gradients(rows, weight, table, torch.float32)

    rows.requires_grad_(), weight.requires_grad_()
    likelihood = (F.rms_norm(rows, (8,)) @ weight.T).log_softmax(1)
    target = torch.outer(table.left, table.unigram)
    target[table.places, table.followers] += table.likely
    expected = -(likelihood * target).sum()
    expected.backward()
    assert float(target.sum()) == pytest.approx(1.0, abs=1e-5)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert rows.grad is not None
    assert weight.grad is not None
    assert torch.allclose(slope, rows.grad, atol=1e-6)
    assert torch.allclose(wide, weight.grad, atol=1e-6)


def test_the_loss_on_another_text_is_told_by_its_pairs_alone() -> None:
    tokens, model = corpus()[0], started(SPEC, 60)
    window = tokens[-SPEC.context :]
    told = loss_by_bigrams(model.embedding.weight, model.output.weight, count_bigrams(window, SPEC.vocabulary))
    assert told == pytest.approx(loss_of(model, window), rel=1e-5)


def test_no_tokens_of_a_text_are_left_out_when_few_contexts_have_rows_of_their_own() -> None:
    _, bigrams = corpus()
    for contexts in (0, 1, 10, 10_000):
        table = _Table.of(bigrams, contexts, torch.device("cpu"))
        assert float(table.share.sum()) == pytest.approx(1.0, abs=1e-5)
        assert table.starts[-1] == len(table.likely) == len(table.followers)
        assert len(table.share) == len(table.contexts) + 1


def test_rare_and_unseen_tokens_begin_near_one_embedding_but_not_at_it() -> None:
    _, bigrams = corpus()
    model = started(SPEC, 20)
    others = F.rms_norm(model.embedding.weight.detach()[bigrams.contexts[20:]], (SPEC.width,))
    near = F.cosine_similarity(others[:-1], others[1:])
    assert float(near.min()) > 0.5
    assert float(near.max()) < 0.9999


def test_more_contexts_tell_more_and_cost_more() -> None:
    tokens, _ = corpus()
    assert loss_of(started(SPEC, 400), tokens) < loss_of(started(SPEC, 20), tokens) - 0.1
    assert flops_of_context(replace(SPEC, width=64)) > flops_of_context(SPEC)


def test_the_same_counts_give_the_same_bits() -> None:
    first, second = started(SPEC, 100), started(SPEC, 100)
    assert torch.equal(first.embedding.weight, second.embedding.weight)
    assert torch.equal(first.output.weight, second.output.weight)


def test_padding_rows_of_the_head_stay_zero() -> None:
    spec = replace(SPEC, vocabulary=390)
    model = build_decoder(spec, 0)
    bigrams = count_bigrams(np.arange(2000) % 390, 390)
    init_from_bigrams(model.embedding.weight.detach(), model.output.weight.detach(), bigrams, 390)
    assert float(model.output.weight.detach()[390:].abs().sum()) == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"tied": True},
        {"embedding_norm": False},
        {"positions": "learned"},
        {"norm": "layernorm"},
        {"initialization": "gpt2"},
    ],
)
def test_other_shapes_begin_with_random_weights(changes: dict[str, object]) -> None:
    assert can_init_from_bigrams(SPEC)
    assert not can_init_from_bigrams(replace(SPEC, **changes))  # pyright: ignore[reportArgumentType]

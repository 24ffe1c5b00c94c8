"""A first table of pairs from counts of what follows two tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lavra.data.token_store.ngram_counts import Trigrams, count_bigrams, count_trigrams
from lavra.models.native.bigram_init import init_from_bigrams
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.native.trigram_init import _Counts, _gradient, flops_of_pair, init_from_trigrams
from tiny_training import SPEC, topics_store

PAIRED = replace(SPEC, bigram_embedding=512)
END = 0


def trigrams(contexts: int = 512) -> tuple[np.ndarray, Trigrams]:
    """Return the tokens of some of Python's documentation, and what follows their pairs."""
    tokens = np.asarray(topics_store().tokens)
    return tokens, count_trigrams(tokens, SPEC.vocabulary, contexts, END)


def started() -> Decoder:
    """Return a decoder that begins with what follows single tokens."""
    model = build_decoder(PAIRED, 0)
    bigrams = count_bigrams(trigrams()[0], SPEC.vocabulary)
    init_from_bigrams(model.embedding.weight.detach(), model.output.weight.detach(), bigrams, SPEC.vocabulary)
    return model


def fit(model: Decoder, counted: Trigrams) -> tuple[float, float]:
    assert model.bigram_embedding is not None
    table, embedding, head = model.bigram_embedding.weight, model.embedding.weight, model.output.weight
    return init_from_trigrams(table.detach(), embedding.detach(), head.detach(), counted)


def loss_of(model: Decoder, tokens: np.ndarray) -> float:
    """Return the mean nats of the tokens in windows."""
    rows = torch.from_numpy(tokens[: len(tokens) // 32 * 32].astype(np.int64)).view(-1, 32)
    with torch.no_grad():
        logits = model.head(model(rows[:, :-1]))
    return float(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))


def test_a_model_knows_what_follows_two_tokens_before_its_first_step() -> None:
    tokens, counted = trigrams()
    model = started()
    before = loss_of(model, tokens)
    first, last = fit(model, counted)
    assert last < first - 0.1
    assert loss_of(model, tokens) < before - 0.1


def test_the_gradient_is_that_of_the_smoothed_likelihood() -> None:
    _, counted = trigrams(60)
    model = started()
    assert model.bigram_embedding is not None
    torch.nn.init.normal_(model.bigram_embedding.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    embedding, head = model.embedding.weight.detach(), model.output.weight.detach()[: SPEC.vocabulary]
    counts = _Counts.of(counted, 512, embedding, head)
    table = model.bigram_embedding.weight.detach().double().requires_grad_()
    likelihood = F.rms_norm(embedding[counts.tokens].double() + table[counts.rows], (SPEC.width,)) @ head.double().T
    likelihood = likelihood.log_softmax(1)
    alone = (F.rms_norm(embedding[counts.tokens].double(), (SPEC.width,)) @ head.double().T).softmax(1)
    total, everything = torch.zeros((), dtype=torch.float64), float(counted.times.sum())
    for place in range(len(counts.tokens)):
        triples = slice(int(counted.starts[place]), int(counted.starts[place + 1]))
        times = torch.from_numpy(counted.times[triples])
        kept = (times - 0.75) / times.sum()
        wanted = alone[place] * (1.0 - kept.sum())
        wanted[torch.from_numpy(counted.followers[triples])] += kept
        total -= times.sum() / everything * (wanted @ likelihood[place])
    total.backward()
    loss, gradient = _gradient(model.bigram_embedding.weight.detach(), embedding, head, counts)
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert table.grad is not None
    torch.testing.assert_close(gradient.double(), table.grad, rtol=1e-3, atol=1e-7)


def test_rows_of_no_counted_pair_stay_zero() -> None:
    _, counted = trigrams(20)
    model = started()
    fit(model, counted)
    assert model.bigram_embedding is not None
    known = set(_Counts.of(counted, 512, model.embedding.weight, model.output.weight).rows.tolist())
    moved = set(model.bigram_embedding.weight.detach().any(1).nonzero().flatten().tolist())
    assert moved == known


def test_the_same_counts_give_the_same_bits() -> None:
    _, counted = trigrams()
    one, other = started(), started()
    fit(one, counted)
    fit(other, counted)
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_pair_costs_more_in_a_wider_model() -> None:
    assert flops_of_pair(PAIRED) < flops_of_pair(replace(PAIRED, width=64))

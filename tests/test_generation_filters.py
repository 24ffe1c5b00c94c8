"""Each filter equals its definition, written out one row and one token at a time, and is the identity when neutral."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from lavra.generation import filters

ROWS = torch.randn(7, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


def probabilities(row: torch.Tensor) -> np.ndarray:
    exponents = np.exp(row.numpy() - row.max().item())
    return exponents / exponents.sum()


def kept(filtered: torch.Tensor) -> list[set[int]]:
    return [set(np.flatnonzero(row.isfinite().numpy()).tolist()) for row in filtered]


def share_of(order: np.ndarray, chance: np.ndarray, share: float) -> set[int]:
    chosen, total = set(), 0.0
    for token in order:
        if total >= share:
            break
        chosen.add(int(token))
        total += chance[token]
    return chosen


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.0])
def test_temperature(temperature: float) -> None:
    found = filters.scale(ROWS, temperature).softmax(-1)
    chance = ROWS.softmax(-1) ** (1 / temperature)
    assert torch.allclose(found, chance / chance.sum(-1, keepdim=True), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 39, 40, 100])
def test_top_k(k: int) -> None:
    expected = [set(np.argsort(-row.numpy())[:k].tolist()) for row in ROWS]
    assert kept(filters.keep_top_k(ROWS, k)) == expected


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.9, 0.999])
def test_top_p(p: float) -> None:
    expected = [share_of(np.argsort(-row.numpy()), probabilities(row), p) for row in ROWS]
    assert kept(filters.keep_top_p(ROWS, p)) == expected


def test_top_p_is_the_same_with_any_shortlist_and_breaks_ties_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (ROWS * 2).round() / 2
    for p in (0.2, 0.5, 0.9, 0.99):
        expected = [share_of(np.argsort(-row.numpy(), kind="stable"), probabilities(row), p - 1e-12) for row in rows]
        for shortlist in (1, 5, 40, 512):
            monkeypatch.setattr(filters, "SHORTLIST", shortlist)
            assert kept(filters.keep_top_p(rows, p)) == expected


@pytest.mark.parametrize("p", [0.01, 0.3, 1.0])
def test_min_p(p: float) -> None:
    expected = [set(np.flatnonzero(probabilities(row) >= p * probabilities(row).max()).tolist()) for row in ROWS]
    assert kept(filters.keep_min_p(ROWS, p)) == expected


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.9, 0.99])
def test_typical(p: float) -> None:
    expected = []
    for row in ROWS:
        chance = probabilities(row)
        entropy = -sum(one * math.log(one) for one in chance)
        expected.append(share_of(np.argsort(np.abs(-np.log(chance) - entropy), kind="stable"), chance, p))
    assert kept(filters.keep_typical(ROWS, p)) == expected


def test_typical_after_other_filters_ignores_what_is_ruled_out() -> None:
    found = filters.keep_typical(filters.keep_top_k(ROWS, 5), 0.5)
    assert all(few <= five for few, five in zip(kept(found), kept(filters.keep_top_k(ROWS, 5)), strict=True))
    assert not found.isnan().any()


def test_what_is_kept_is_not_changed() -> None:
    for found in (filters.keep_top_k(ROWS, 4), filters.keep_top_p(ROWS, 0.6), filters.keep_typical(ROWS, 0.6)):
        assert torch.equal(found[found.isfinite()], ROWS[found.isfinite()])


def test_repetition_penalty() -> None:
    seen = torch.zeros_like(ROWS, dtype=torch.bool)
    seen[:, ::3] = True
    expected = ROWS.clone()
    for row, column in seen.nonzero().tolist():
        score = ROWS[row, column]
        expected[row, column] = score / 1.3 if score > 0 else score * 1.3
    assert torch.equal(filters.penalize_repetition(ROWS, seen, 1.3), expected)


def test_frequency_penalty() -> None:
    counts = torch.arange(40).expand(7, 40) % 4
    assert torch.allclose(filters.penalize_frequency(ROWS, counts, 0.5), ROWS - 0.5 * counts)


@given(history=some.lists(some.integers(0, 3), max_size=12), size=some.integers(1, 4), left=some.integers(0, 3))
@settings(max_examples=200)
def test_no_repeated_ngram(history: list[int], size: int, left: int) -> None:
    logits = torch.zeros(1, 5)
    banned = {
        token
        for token in range(4)
        if any(
            history[start : start + size] == [*history[len(history) - size + 1 :], token]
            for start in range(len(history) - size + 1)
        )
        and len(history) >= size - 1
    }
    padded = torch.tensor([[-1] * left + history], dtype=torch.long).reshape(1, -1)
    assert kept(filters.forbid_repeated_ngrams(logits, padded, size)) == [set(range(5)) - banned]


def test_no_repeated_ngram_never_rules_out_everything() -> None:
    logits = torch.tensor([[1.0, 2.0]])
    assert torch.equal(filters.forbid_repeated_ngrams(logits, torch.tensor([[0, 1]]), 1), logits)


def test_padding_of_the_vocabulary() -> None:
    found = filters.mask_padding(ROWS, 30)
    assert kept(found) == [set(range(30))] * 7
    assert torch.equal(found[:, :30], ROWS[:, :30])


def test_neutral_values_are_identities() -> None:
    history = torch.zeros(7, 9, dtype=torch.long)
    for found in (
        filters.scale(ROWS, 1.0),
        filters.keep_top_k(ROWS, 0),
        filters.keep_top_p(ROWS, 1.0),
        filters.keep_min_p(ROWS, 0.0),
        filters.keep_typical(ROWS, 1.0),
        filters.penalize_repetition(ROWS, torch.ones_like(ROWS), 1.0),
        filters.penalize_frequency(ROWS, torch.ones_like(ROWS), 0.0),
        filters.forbid_repeated_ngrams(ROWS, history, 0),
        filters.mask_padding(ROWS, 40),
    ):
        assert torch.equal(found, ROWS)


def test_rows_do_not_see_each_other() -> None:
    for name, value in (("keep_top_k", 3), ("keep_top_p", 0.7), ("keep_min_p", 0.1), ("keep_typical", 0.7)):
        function = getattr(filters, name)
        alone = torch.cat([function(row[None], value) for row in ROWS])
        assert torch.equal(function(ROWS, value), alone)

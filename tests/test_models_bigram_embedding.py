"""A table of pairs of tokens beside the embedding: what it adds, when, and that every way of reading agrees on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.building import build_decoder
from lavra.models.native.ngrams import BigramEmbedding, pair_rows
from lavra.models.native.store import load_decoder, save_decoder
from lavra.models.spec import DecoderSpec
from lavra.models.transforms.vocabulary import swap_vocabulary
from lavra.training.optimizers.optimizers import OptimizerOptions
from reading import assert_documents_are_apart, assert_moved_rows_read_on
from tiny_training import SPEC, lively, run, tiny_trainer

WITH_PAIRS = replace(SPEC, bigram_embedding=256)
IDS = torch.randint(SPEC.vocabulary, (3, 12), generator=torch.Generator().manual_seed(0))


@given(st.integers(0, 300_000), st.integers(0, 300_000), st.integers(1, 1 << 20))
def test_every_pair_has_a_row_of_the_table(before: int, token: int, rows: int) -> None:
    row = pair_rows(torch.tensor(before), torch.tensor(token), rows)
    assert 0 <= int(row) < rows


def test_pairs_are_spread_evenly_and_their_order_matters() -> None:
    before, token = torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij")
    rows = pair_rows(before.flatten(), token.flatten(), 4096)
    times = torch.bincount(rows, minlength=4096)
    # 90,000 pairs in 4,096 rows: 22 in each, as many as chance would put there, give or take
    assert times.min() > 0
    assert times.max() < 3 * times.float().mean()
    swapped = pair_rows(token.flatten(), before.flatten(), 4096)
    assert float((rows == swapped).float().mean()) < 0.02


def test_a_fresh_model_computes_what_it_would_without_the_table() -> None:
    plain, paired = build_decoder(SPEC, 3), build_decoder(WITH_PAIRS, 3)
    torch.testing.assert_close(paired(IDS), plain(IDS), rtol=0, atol=0)


def test_what_is_added_is_the_row_of_a_token_and_the_one_before() -> None:
    table = BigramEmbedding(64, 8)
    torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    ids = torch.tensor([[5, 9, 9, 7, 5]])
    found = table(ids, positions)[0]
    for place, (before, token) in {1: (5, 9), 2: (9, 9), 4: (7, 5)}.items():
        row = int(pair_rows(torch.tensor(before), torch.tensor(token), 64))
        assert torch.equal(found[place], table.weight[row])
    assert not found[[0, 3]].any()  # nothing comes before the first token of a document
    # A window that begins within a document does not know the token before, unless it is given.
    assert not table(ids, positions + 4)[0, 0].any()
    row = int(pair_rows(torch.tensor(3), torch.tensor(5), 64))
    assert torch.equal(table(ids, positions + 4, torch.tensor([3]))[0, 0], table.weight[row])


@torch.no_grad()
def test_reading_by_and_by_is_reading_at_once() -> None:
    model = lively(WITH_PAIRS).eval()
    whole = model(IDS)
    cache = model.new_cache(3, 24)
    parts = [model.step(part, cache) for part in IDS.split([5, 1, 4, 1, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_rows_of_a_cache_keep_their_last_tokens_when_they_move() -> None:
    assert_moved_rows_read_on(lively(WITH_PAIRS).eval(), IDS, 6, 2, 9)


def test_documents_in_a_window_do_not_pair_with_each_other() -> None:
    assert_documents_are_apart(lively(WITH_PAIRS).eval())


def test_a_model_learns_faster_with_the_table() -> None:
    rates = OptimizerOptions(embedding_lr=0.1)
    plain, paired = (run(tiny_trainer(spec=spec, optimizer=rates, steps=40))[-1] for spec in (SPEC, WITH_PAIRS))
    assert paired.loss < plain.loss - 0.05


def test_the_table_is_saved_and_read_with_the_model(tmp_path: Path) -> None:
    model = lively(WITH_PAIRS)
    save_decoder(tmp_path, model)
    read = load_decoder(tmp_path)
    assert read.spec.bigram_embedding == 256
    torch.testing.assert_close(read(IDS), model(IDS), rtol=0, atol=0)


def test_another_vocabulary_begins_with_no_pairs() -> None:
    old, new = (
        Tokenizer.train([text] * 9, 290) for text in ("o gato come o peixe todo", "the cat eats the whole fish")
    )
    model = lively(replace(WITH_PAIRS, vocabulary=old.vocabulary_size))
    table = model.bigram_embedding
    assert table is not None
    before = table.weight.clone()
    swap_vocabulary(model, old, old)
    assert torch.equal(table.weight, before)
    swap_vocabulary(model, old, new)
    assert not table.weight.any()


def test_a_negative_number_of_rows_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.bigram_embedding is -1"):
        DecoderSpec(bigram_embedding=-1)

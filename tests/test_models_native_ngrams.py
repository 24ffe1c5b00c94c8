"""Recall: what followed tokens the last time, found as by reading back, and every way of reading agrees on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.models.native.building import build_decoder
from lavra.models.native.low_precision import can_pack, pack_weights, round_weights
from lavra.models.native.ngrams import GAIN, NgramCopy, followers
from lavra.models.native.store import load_decoder, save_decoder
from lavra.models.spec import DecoderSpec
from reading import assert_documents_are_apart, assert_moved_rows_read_on
from tiny_training import SPEC, lively, run, tiny_trainer

RECALLING = replace(SPEC, ngram_copy=True)
IDS = torch.randint(7, (3, 24), generator=torch.Generator().manual_seed(0))


def read_back(ids: list[int], first: int, place: int, length: int) -> int | None:
    """Return what followed the last `length` tokens when they were last in the document that begins at `first`."""
    wanted = ids[place - length + 1 : place + 1]
    for end in range(place - 1, first + length - 2, -1):
        if ids[end - length + 1 : end + 1] == wanted:
            return ids[end + 1]
    return None


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
    st.integers(0, 19),
    st.integers(0, 5),
    st.integers(1, 20),
)
def test_followers_are_those_found_by_reading_back(ids: list[int], cut: int, begun: int, new: int) -> None:
    # A window that begins within a document, `begun` tokens after its beginning, and another document from `cut` on.
    places = range(len(ids))
    positions = torch.tensor([[place + begun if place < cut else place - cut for place in places]])
    new = min(new, len(ids) - min(cut, len(ids) - 1))  # the new tokens of a cache are of one document
    rows = torch.tensor([ids])
    for asked in (len(ids), new):
        found = list(followers(rows, positions[:, len(ids) - asked :]))
        assert len(found) == 3
        for length, (follower, known) in enumerate(found, start=1):
            assert follower.shape == known.shape == (1, asked)
            for place in places[len(ids) - asked :]:
                wanted = read_back(ids, cut if place >= cut else 0, place, length)
                index = place - len(ids) + asked
                assert bool(known[0, index]) == (wanted is not None)
                if wanted is not None:
                    assert int(follower[0, index]) == wanted


def test_what_is_added_is_the_head_row_of_what_followed() -> None:
    recall, rows = NgramCopy(8, 1e-6), torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[1, 2, 3, 1, 2]])
    added = recall(torch.zeros(1, 5, 8), ids, torch.arange(5)[None], rows)[0]
    unit = rows / rows.square().mean(1, keepdim=True).sqrt()
    assert not added[:3].any()
    torch.testing.assert_close(added[3], GAIN * unit[2])  # after 1 came 2
    torch.testing.assert_close(added[4], 2 * GAIN * unit[3])  # after 2, and after 1 and 2, came 3


def test_a_fresh_model_computes_what_it_would_without_recall() -> None:
    plain, recalling = build_decoder(SPEC, 3), build_decoder(RECALLING, 3)
    torch.testing.assert_close(recalling(IDS), plain(IDS), rtol=0, atol=0)  # the head is zero at first


@torch.no_grad()
def test_reading_by_and_by_is_reading_at_once() -> None:
    model = lively(RECALLING).eval()
    whole = model(IDS)
    cache = model.new_cache(3, 24)
    parts = [model.step(part, cache) for part in IDS.split([9, 1, 10, 1, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_rows_of_a_cache_keep_their_tokens_when_they_move() -> None:
    assert_moved_rows_read_on(lively(RECALLING).eval(), IDS, 16, 4, 19)


def test_documents_in_a_window_recall_nothing_of_each_other() -> None:
    assert_documents_are_apart(lively(RECALLING).eval())


@torch.no_grad()
@pytest.mark.parametrize("change", [round_weights, pack_weights])
def test_a_head_in_another_layout_is_still_read_row_by_row(change: Any) -> None:
    if change is pack_weights and not can_pack(torch.device("cpu"), torch.bfloat16):
        pytest.skip("this build of torch lays out no weights")
    model, changed = (lively(RECALLING).eval().to(torch.bfloat16) for _ in range(2))
    change(changed)
    assert not isinstance(changed.output, torch.nn.Linear)
    torch.testing.assert_close(changed(IDS).float(), model(IDS).float(), rtol=0.1, atol=0.1)
    torch.testing.assert_close(changed.head_rows(), model.output.weight)


def test_a_model_learns_faster_with_recall() -> None:
    plain, recalling = (run(tiny_trainer(spec=spec, steps=60))[-1] for spec in (SPEC, RECALLING))
    assert recalling.loss < plain.loss - 0.02


def test_the_gains_are_saved_and_read_with_the_model(tmp_path: Path) -> None:
    model = lively(RECALLING)
    save_decoder(tmp_path, model)
    read = load_decoder(tmp_path)
    assert read.spec.ngram_copy
    torch.testing.assert_close(read(IDS), model(IDS), rtol=0, atol=0)


def test_a_head_of_another_width_than_the_blocks_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.ngram_copy adds rows of the head, 32 wide"):
        DecoderSpec(width=64, embedding_width=32, ngram_copy=True)

"""Rows and ids of large indexes: found and sorted by arrays alone, as by the plain rules."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lavra.search.index.rows import last_rows
from lavra.search.index.snapshot import ascending
from lavra.text.term_counts import mapped, new_array, release


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"", b"a" * 8, b"a" * 9, b"a" * 16, b"a\0"]), max_size=40))
def test_texts_are_sorted_by_their_bytes(texts: list[bytes]) -> None:
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    order = ascending(np.frombuffer(b"".join(texts), dtype=np.uint8), starts)
    assert sorted(order.tolist()) == list(range(len(texts)))
    assert [texts[number] for number in order] == sorted(texts)


class Rows:
    """The hashes of a segment."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)


@pytest.mark.parametrize("seed", range(5))
def test_the_last_row_of_a_document_is_found_also_when_half_of_the_hashes_are_equal(seed: int) -> None:
    chance = random.Random(seed)
    segments: list[Any] = []
    rows: list[tuple[int, int]] = []
    for size in (0, 7, 1, 12):
        keys = np.zeros((size, 6), dtype=np.uint64)
        for row in range(size):
            keys[row, :2] = chance.randint(0, 2), chance.randint(0, 3)
            rows.append((int(keys[row, 0]), int(keys[row, 1])))
        segments.append(Rows(keys))
    found = last_rows(segments)
    assert [len(one) for one in found] == [0, 7, 1, 12]
    assert np.concatenate(found).tolist() == [row not in rows[place + 1 :] for place, row in enumerate(rows)]
    assert last_rows([]) == []


def test_released_arrays_keep_what_was_written_and_stay_readable(tmp_path: Path) -> None:
    array = new_array(tmp_path / "a.npy", np.int32, 100_000)
    array[::7] = 5
    release(array, np.zeros(3))
    array[1::7] = 6
    release(array)
    read = mapped(tmp_path / "a.npy")
    release(read)
    assert np.array_equal(read, array)
    assert (int(read[7]), int(read[8]), int(read[9])) == (5, 6, 0)

"""Chunks: nothing left out, sizes kept, cut between sentences."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.text.chunking import cut_into_chunks, sentences, words_in

TEXTS = st.text(alphabet=st.sampled_from(list("ab é.!?…\n\"'»)A1 ")), max_size=300)


@given(TEXTS, st.integers(1, 12), st.integers(0, 11))
def test_every_character_is_in_a_chunk_and_no_chunk_is_too_long(text: str, limit: int, overlap: int) -> None:
    overlap = min(overlap, limit - 1)
    chunks = cut_into_chunks(text, limit, overlap=overlap)
    covered = set()
    for chunk in chunks:
        covered.update(range(chunk.start, chunk.end))
        assert words_in(text[chunk.start : chunk.end]) <= limit
    assert covered == set(range(len(text)))
    assert all(one.start < two.start and one.end < two.end for one, two in pairwise(chunks))


@given(TEXTS, st.integers(1, 40))
def test_characters_as_tokens(text: str, limit: int) -> None:
    chunks = cut_into_chunks(text, limit, count=len)
    assert "".join(text[chunk.start : chunk.end] for chunk in chunks) == text
    assert all(chunk.end - chunk.start <= limit for chunk in chunks)


@given(TEXTS)
def test_sentences_are_the_whole_text(text: str) -> None:
    assert "".join(text[piece.start : piece.end] for piece in sentences(text)) == text


def test_sentence_ends() -> None:
    text = "O Sr. Silva, i.e. ele, chegou às 9.30 (sim!). “Foi bom?” Sim… mas não muito. J. R. Tolkien\n\nFim"
    assert [text[piece.start : piece.end].strip() for piece in sentences(text)] == [
        "O Sr. Silva, i.e. ele, chegou às 9.30 (sim!).",
        "“Foi bom?”",
        "Sim… mas não muito.",
        "J. R. Tolkien",
        "Fim",
    ]


def test_overlap_repeats_whole_sentences() -> None:
    text = "Um dois três. Quatro cinco. Seis sete oito. Nove dez. Onze."
    chunks = [text[chunk.start : chunk.end].strip() for chunk in cut_into_chunks(text, 6, overlap=3)]
    assert chunks == [
        "Um dois três. Quatro cinco.",
        "Quatro cinco. Seis sete oito.",
        "Seis sete oito. Nove dez. Onze.",
    ]


def test_a_text_that_fits_is_one_chunk_and_an_empty_one_none() -> None:
    assert len(cut_into_chunks("Um. Dois. Três.", 3)) == 1
    assert cut_into_chunks("", 5) == []


def test_a_long_text_without_sentences_is_cut_quickly() -> None:
    text = "palavra " * 20_000
    chunks = cut_into_chunks(text, 128, overlap=16)
    assert chunks[-1].end == len(text)
    assert len(chunks) < 2 * 20_000 / 100


@pytest.mark.parametrize(("limit", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_impossible_sizes_are_refused(limit: int, overlap: int) -> None:
    with pytest.raises(InputError, match="cannot be cut"):
        cut_into_chunks("texto", limit, overlap=overlap)

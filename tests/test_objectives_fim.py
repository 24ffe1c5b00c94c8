"""Filling in the middle: cuts between characters, sections as somebody would ask for them, and the text given back."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.seeds import row_streams
from lavra.data.packing import Window, WindowSource
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.protocols import IGNORED
from lavra.objectives.base import MEASURED
from lavra.objectives.causal import Causal
from lavra.objectives.denoise.fim import ROOM, Cutter, FillInTheMiddle, fim_for, infilled, restored_infilled
from lavra.objectives.denoise.marks import Infilling, infilling_of, with_marks
from lavra.objectives.denoise.rows import Part
from little_tokenizers import byte_level, wordpiece
from tiny_training import CONTEXT, topics_store, topics_tokenizer

MARKS = Infilling(5001, 5002, 5003)
END = 5000


@cache
def marked(tokenizer: Tokenizer) -> Tokenizer:
    return with_marks(tokenizer, "fim", (), decoder=True)


@cache
def cutter() -> Cutter:
    return Cutter(byte_level())


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    source = WindowSource(topics_store(), CONTEXT, seed=1)
    return source.rows(0, source.order.windows)


def objective(**options: float) -> FillInTheMiddle:
    return fim_for(marked(topics_tokenizer()), CONTEXT, **options)  # pyright: ignore[reportArgumentType]


texts = st.text(st.sampled_from("ab é世 \n.,'🙂x1"), max_size=60)
bools = st.booleans()


@given(text=texts, first=st.integers(0, 60), last=st.integers(0, 60), suffix_first=bools)
def test_sections_give_back_the_text_and_are_tokenised_each_by_itself(
    text: str, first: int, last: int, suffix_first: bool
):
    tokenizer = byte_level()
    tokens = np.array(tokenizer.encode(text), np.int64)
    places = cutter().places(tokens)
    assert len(places) == len(text) + 1
    start, stop = sorted((min(first, len(text)), min(last, len(text))))
    sections = cutter().sections(tokens, (int(places[start]), int(places[stop])))
    parts = [text[:start], text[start:stop], text[stop:]]
    assert [tokenizer.decode(one) for one in sections] == parts
    laid = infilled(END, sections, MARKS, END, suffix_first=suffix_first)
    assert tokenizer.decode(restored_infilled(laid, MARKS)) == text
    learned = laid.targets[laid.targets != IGNORED]
    assert sorted(learned.tolist()) == sorted([*np.concatenate(sections).tolist(), END])
    assert laid.targets[-1] == END


def test_sections_have_the_tokens_that_a_user_would_give():
    """In prose, what is asked for at generation is tokenised as in training."""
    tokenizer = byte_level()
    for text in ("A palavra não é só de quem a escreve, disse-lhe a avó; é também.", "it's a probe (of 3) with 12 + 7"):
        tokens = np.array(tokenizer.encode(text))
        for start in range(0, len(text), 3):
            for stop in range(start, len(text), 7):
                places = cutter().places(tokens)
                sections = cutter().sections(tokens, (int(places[start]), int(places[stop])))
                wanted = [tokenizer.encode(part) for part in (text[:start], text[start:stop], text[stop:])]
                assert [one.tolist() for one in sections] == wanted


def test_a_window_inside_a_character_is_given_back():
    tokenizer = byte_level()
    tokens = np.array(tokenizer.encode("世界 and 世"))
    assert len(tokenizer.encode("世")) > 1
    broken = tokens[1:-1]
    spelled = cutter()
    for start in spelled.places(broken):
        sections = spelled.sections(broken, (int(start), int(spelled.places(broken)[-1])))
        assert tokenizer.decode(np.concatenate(sections)) == tokenizer.decode(broken)


def test_a_tokenizer_that_changes_text_is_cut_between_tokens():
    tokenizer = wordpiece()
    tokens = np.array(tokenizer.encode("the documentation of the words"))
    one = Cutter(tokenizer)
    assert not one.between_characters
    sections = one.cut(tokens, np.random.default_rng(0))
    assert np.concatenate(sections).tolist() == tokens.tolist()


def test_orders_and_marks_are_those_of_the_paper():
    sections = np.array([1, 2]), np.array([3]), np.array([4, 5])
    psm = infilled(9, sections, MARKS, END, suffix_first=False)
    assert psm.inputs.tolist() == [9, 5001, 1, 2, 5002, 4, 5, 5003, 3]
    assert psm.targets.tolist() == [IGNORED, 1, 2, IGNORED, 4, 5, IGNORED, 3, END]
    spm = infilled(9, sections, MARKS, END, suffix_first=True)
    assert spm.inputs.tolist() == [9, 5001, 5002, 4, 5, 5003, 1, 2, 3]
    assert spm.targets.tolist() == [IGNORED, IGNORED, 4, 5, IGNORED, 1, 2, 3, END]
    assert psm.prefix == spm.prefix == 0


def test_rate_zero_is_the_causal_objective_to_the_bit(windows: list[Window]):
    plain = Causal(CONTEXT).encode(windows, row_streams(0, "test", first=0), 0.0)
    for one, progress in ((objective(rate=0.0), 0.0), (objective(rate=1.0), MEASURED)):
        batch = one.encode(windows, row_streams(0, "test", first=0), progress)
        for name in ("inputs", "targets", "document_ids", "positions"):
            assert torch.equal(getattr(batch, name), getattr(plain, name))
        assert not batch.model_inputs


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_rates_are_measured(rate: float, windows: list[Window]):
    marks = objective().marks
    taken = first = total = 0
    for seed in range(40):
        batch = objective(rate=rate, spm_share=0.25).encode(windows, row_streams(seed, "test", first=0), 0.0)
        assert batch.document_ids is not None
        total += sum(int(ids.max()) + 1 for ids in batch.document_ids)
        taken += int((batch.inputs == marks.middle).sum())
        first += int(((batch.inputs[:, 1:] == marks.suffix) & (batch.inputs[:, :-1] == marks.prefix)).sum())
    assert abs(taken / total - rate) < 3 * (rate * (1 - rate) / total) ** 0.5 + 0.02
    assert abs(first / taken - 0.25) < 3 * (0.25 * 0.75 / taken) ** 0.5 + 0.03  # an empty prefix looks alike


def test_no_cut_crosses_the_border_of_a_document(windows: list[Window]):
    """Each text of a row is one part of a document, and every token of the text is a target exactly once."""
    one = objective(rate=1.0)
    tokenizer = marked(topics_tokenizer())
    batch = one.encode(windows, row_streams(3, "test", first=0), 0.0)
    assert batch.document_ids is not None
    for row, window in enumerate(windows):
        texts = []
        for number in range(int(batch.document_ids[row].max()) + 1):
            inside = batch.document_ids[row] == number
            targets = batch.targets[row][inside]
            texts.append(sorted(tokenizer.decode(targets[targets != IGNORED].tolist())))
        for number, text in zip(np.unique(window.document_ids), texts, strict=True):
            assert text == sorted(tokenizer.decode(window.tokens[1:][window.document_ids == number].tolist()))


def test_a_text_without_room_is_cut_between_tokens():
    one = objective(rate=1.0)
    tokens = np.array(one.cutter._tokenizer.encode("internationalisation" * 10))[:CONTEXT]
    for seed in range(30):
        laid = one.lay_out(Part(tokens, False, one.begin, one.end), np.random.default_rng(seed))
        assert len(laid) <= CONTEXT + ROOM


def test_tokens_of_known_models_are_recognised():
    assert infilling_of(byte_level()) is None
    tokenizer = marked(byte_level())
    found = infilling_of(tokenizer)
    assert found is not None
    assert with_marks(tokenizer, "fim", (), decoder=True) is tokenizer
    assert tokenizer.encode("<|fim_middle|>") != [found.middle]  # text never becomes a special token
    assert tokenizer.encode("the word") == byte_level().encode("the word")

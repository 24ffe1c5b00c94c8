"""Questions and answers: the answer is found in the tokens of each window, and faults are counted with their place."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.examples.encoding import ExampleEncoder
from lavra.data.examples.labelled import LabelledTokens
from lavra.data.examples.rows import ExampleRow, read_examples
from lavra.data.examples.spans import SpanColumns, window_starts
from lavra.data.readers.rows import (
    ABSENT_ANSWER,
    BAD_LABEL,
    EMPTY,
    FIRST_OF_SEVERAL,
    MISSING_COLUMN,
    MOVED_ANSWER,
    NOT_TEXT,
    UNLABELLED,
    BadRows,
    SourceDocument,
)
from lavra.data.tokenizers.offsets import encode_with_offsets
from lavra.data.tokenizers.pairs import encode_two
from lavra.data.tokenizers.tokenizer import Tokenizer
from little_tokenizers import bart_like, byte_level, unigram, wordpiece

KINDS = [wordpiece, unigram, byte_level, bart_like]
CONTEXT = "Em 1822, Dom Pedro disse: independência ou morte! Foi às margens do Ipiranga, em São Paulo, disse-lhe a avó."
QUESTION = "Quem disse?"


def read(**fields: Any) -> tuple[ExampleRow | None, BadRows]:
    bad_rows = BadRows()
    fields = {"context": CONTEXT, "question": QUESTION, **fields}
    row = SourceDocument("", "data", "data.jsonl:7", {k: v for k, v in fields.items() if v != "absent"}, "data.jsonl")
    return SpanColumns().read(row, bad_rows), bad_rows


def squad(*answers: str) -> dict[str, Any]:
    return {"text": list(answers), "answer_start": [CONTEXT.index(answer) for answer in answers]}


def windows(
    answers: Any, tokenizer: Tokenizer, limit: int | None = None, overlap: int = 8
) -> tuple[LabelledTokens, ...]:
    row, _ = read(answers=answers)
    assert row is not None
    return SpanColumns(overlap=overlap).encode([row], tokenizer, limit)[0]


def text_of(part: LabelledTokens, tokenizer: Tokenizer) -> str | None:
    """Return the text of the span in the context; None for none."""
    first, last = part.labels["span"]
    if (first, last) == (0, 0):
        return None
    [placed] = encode_with_offsets(tokenizer, [CONTEXT])
    offsets = placed.without_spaces(CONTEXT)
    move = part.labels["first"] - part.labels["begin"]
    return CONTEXT[offsets[first + move, 0] : offsets[last + move, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_that_fits_is_encoded_as_a_pair_of_texts(kind: Callable[[], Tokenizer]):
    [part] = windows(squad("Dom Pedro"), kind())
    [expected] = encode_two(kind(), [[QUESTION, CONTEXT]])
    assert part.tokens.tolist() == expected.tokens.tolist()
    assert part.labels.get("second_type_from", 0) == expected.second
    assert text_of(part, kind()) == "Dom Pedro"
    assert not part.cut


@pytest.mark.parametrize("kind", KINDS)
@given(first=st.integers(0, 17), words=st.integers(1, 4), limit=st.integers(40, 80), overlap=st.integers(1, 30))
def test_the_answer_is_learned_in_every_window_that_holds_it(
    kind: Callable[[], Tokenizer], first: int, words: int, limit: int, overlap: int
):
    tokenizer = kind()
    answer = " ".join(CONTEXT.split()[first : first + words]).strip(",.:!")
    parts = windows(squad(answer), tokenizer, limit, overlap)
    assert all(len(part.tokens) <= limit for part in parts)
    [whole] = windows(squad(answer), tokenizer)
    begin, size = whole.labels["begin"], whole.labels["size"]
    tokens = whole.tokens[begin : begin + size]
    span = [number - begin for number in whole.labels["span"]]
    assert text_of(whole, tokenizer) == answer
    covered = set()
    for number, part in enumerate(parts):
        own, start = part.labels["size"], part.labels["first"]
        assert (
            part.tokens[part.labels["begin"] : part.labels["begin"] + own].tolist()
            == tokens[start : start + own].tolist()
        )
        assert (part.labels["window"], part.labels["windows"]) == (number, len(parts))
        covered |= set(range(start, start + own))
        held = start <= span[0] and span[1] < start + own
        if part.labels["span"] is not None:
            assert (text_of(part, tokenizer) == answer) == held
            assert held or part.labels["span"] == [0, 0]
    assert covered == set(range(size))
    held = [part.labels["span"] not in (None, [0, 0]) for part in parts]
    assert any(held) or all(part.labels["span"] is None for part in parts)


def test_windows_overlap_by_what_is_asked_and_end_with_the_text():
    assert window_starts(100, 40, 10) == [0, 30, 60]
    assert window_starts(100, 40, 39) == [0, 20, 40, 60]  # at most half
    assert window_starts(101, 40, 10) == [0, 30, 60, 61]
    assert window_starts(40, 40, 10) == [0]


def test_a_question_that_leaves_no_room_is_cut_and_said_to_be():
    row, _ = read(question="Quem " * 60, answers=squad("Dom Pedro"))
    assert row is not None
    [parts] = SpanColumns(overlap=4).encode([row], wordpiece(), 40)
    assert all(part.cut and len(part.tokens) <= 40 for part in parts)
    assert any(part.labels["span"] != [0, 0] for part in parts)


def test_a_question_without_an_answer_is_nothing_in_every_window():
    for nothing in ({"text": [], "answer_start": []}, [], "", [""]):
        parts = windows(nothing, wordpiece(), 40)
        assert len(parts) > 1
        assert all(part.labels["span"] == [0, 0] and part.labels["answers"] == [] for part in parts)


@pytest.mark.parametrize(
    "answers",
    [
        squad("Dom Pedro", "Pedro"),
        [{"text": "Dom Pedro", "answer_start": 9}, {"text": "Pedro", "answer_start": 13}],
        ["Dom Pedro", "Pedro"],
        {"text": "Dom Pedro", "answer_start": 9},
        {"text": ["Dom Pedro"], "answer_start": None},
        "Dom Pedro",
    ],
)
def test_answers_in_every_usual_layout(answers: Any):
    row, bad_rows = read(answers=answers)
    assert row is not None
    assert row.labels["answers"][0] == "Dom Pedro"
    assert row.labels["answer_start"] == 9
    assert not bad_rows.changes
    assert not bad_rows.notes


def test_an_answer_that_stands_elsewhere_is_found_nearest_to_its_place_and_counted():
    late = CONTEXT.index("disse-lhe")
    row, bad_rows = read(answers={"text": ["disse"], "answer_start": [late - 3]})
    assert row is not None
    assert row.labels["answer_start"] == late
    assert bad_rows.changes == {MOVED_ANSWER: 1}
    assert "'disse' is at" in bad_rows.summary()
    row, bad_rows = read(answers=["disse"])
    assert row is not None
    assert row.labels["answer_start"] == CONTEXT.index("disse")
    assert bad_rows.notes == {FIRST_OF_SEVERAL: 1}


def test_of_several_answers_the_first_in_the_context_is_learned_and_all_count():
    row, _ = read(answers=["o imperador", "Dom Pedro"])
    assert row is not None
    assert row.labels["answers"] == ["Dom Pedro", "o imperador"]


@pytest.mark.parametrize(
    ("fields", "kind", "detail"),
    [
        ({"answers": squad("Dom Pedro") | {"text": ["Dom João"]}}, ABSENT_ANSWER, "'Dom João'"),
        ({"answers": {"text": ["dom pedro"], "answer_start": [9]}}, ABSENT_ANSWER, "'dom pedro'"),
        ({"answers": {"text": ["a", "b"], "answer_start": [9]}}, BAD_LABEL, "layout of SQuAD"),
        ({"answers": {"texts": ["a"]}}, BAD_LABEL, "layout of SQuAD"),
        ({"answers": [3]}, BAD_LABEL, "layout of SQuAD"),
        ({"answers": 3}, BAD_LABEL, "layout of SQuAD"),
        ({"answers": None}, UNLABELLED, "'answers' is empty"),
        ({"answers": "absent"}, MISSING_COLUMN, "answers"),
        ({"answers": [], "context": None}, MISSING_COLUMN, "context"),
        ({"answers": [], "context": "  "}, EMPTY, "'context'"),
        ({"answers": [], "question": 7}, NOT_TEXT, "'question' holds a int"),
    ],
)
def test_rows_that_cannot_be_used_are_counted_with_their_place(fields: dict[str, Any], kind: str, detail: str):
    row, bad_rows = read(**fields)
    assert row is None
    assert bad_rows.counts == {kind: 1}
    [(place, told)] = bad_rows.examples[kind]
    assert place == "data.jsonl:7"
    assert detail in told


def test_an_answer_that_no_window_holds_whole_is_not_learned():
    parts = windows(squad(CONTEXT[:-1]), wordpiece(), 40)
    assert len(parts) > 1
    assert all(part.labels["span"] is None for part in parts)
    row, _ = read(answers=squad(CONTEXT[:-1]))
    assert row is not None
    encoder = ExampleEncoder(wordpiece(), "labelled", BadRows(policy="strict"), context=40, reader=SpanColumns())
    with pytest.raises(InputError, match=r"data\.jsonl:7: answer longer than the context"):
        encoder.encode_parts([row])


def test_a_row_without_answers_may_be_read_for_prediction():
    fields = {"context": CONTEXT, "question": QUESTION}
    row = SpanColumns(may_lack_labels=True).read(SourceDocument("", "", "x:1", fields), BadRows())
    assert row is not None
    [[part]] = SpanColumns().encode([row], wordpiece(), None)
    assert part.labels["span"] is part.labels["answers"] is None


def test_a_reader_is_made_again_of_its_plain_values():
    reader = SpanColumns(answers="answer", overlap=3)
    assert SpanColumns(**reader.to_json()) == reader


def test_composing_characters_moves_the_answer_with_its_context(tmp_path: Path):
    context = unicodedata.normalize("NFD", CONTEXT)
    answer = unicodedata.normalize("NFD", "às margens")
    fields = {
        "context": context,
        "question": QUESTION,
        "answers": {"text": [answer], "answer_start": [context.index(answer)]},
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(fields), encoding="utf8")
    [row] = read_examples([str(tmp_path / "rows.jsonl")], BadRows(), columns=SpanColumns(), normalize=True)
    assert row.prompt == CONTEXT
    [[part]] = SpanColumns().encode([row], byte_level(), None)
    assert text_of(part, byte_level()) == "às margens"

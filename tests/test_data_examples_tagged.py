"""Words with tags: the tokens of each word are those of `transformers`, windows lose nothing, faults are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelled_rows import tagged
from lavra.core.errors import InputError
from lavra.data.examples.labelled import LabelledTokens
from lavra.data.examples.rows import ExampleRow
from lavra.data.examples.tagged import NO_TOKEN, TaggedColumns
from lavra.data.readers.rows import (
    BAD_LABEL,
    EMPTY,
    MISSING_COLUMN,
    NOT_TEXT,
    ODD_TAGS,
    UNLABELLED,
    UNTAGGED,
    BadRows,
    SourceDocument,
)
from lavra.data.tokenizers.offsets import encode_with_offsets
from lavra.data.tokenizers.tokenizer import Tokenizer
from little_tokenizers import bart_like, byte_level, unigram, wordpiece

KINDS = [wordpiece, unigram, byte_level, bart_like]
WORDS = st.lists(
    st.sampled_from(
        ["A", "palavra", "não", "d'água", "disse-lhe", ",", "...", "12", "École", "2.5%", "xyzzy", "中文", "é"]
    ),
    min_size=1,
    max_size=30,
)


def read(**fields: Any) -> tuple[ExampleRow | None, BadRows]:
    bad_rows = BadRows()
    row = SourceDocument("", "data", "data.jsonl:7", fields, "data.jsonl")
    return TaggedColumns().read(row, bad_rows), bad_rows


def parts_of(words: Sequence[str], tokenizer: Tokenizer, context: int | None = None) -> tuple[LabelledTokens, ...]:
    row, _ = read(tokens=list(words), tags=[str(number) for number in range(len(words))])
    assert row is not None
    return TaggedColumns().encode([row], tokenizer, context)[0]


@pytest.mark.parametrize("kind", [wordpiece, unigram, bart_like])
@given(words=WORDS)
def test_words_begin_where_those_of_transformers_do(kind: Callable[[], Tokenizer], words: list[str]):
    from tokenizers import Tokenizer as Library
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    inner = Library.from_str(kind().serialised)
    if kind is bart_like:  # transformers asks for a space before each word; the first has none in a text
        inner.normalizer = normalizers.Prepend(" ")
    theirs = PreTrainedTokenizerFast(tokenizer_object=inner)
    encoding = theirs(words, is_split_into_words=True, add_special_tokens=False)
    [part] = parts_of(words, kind())
    begin, end = kind().around_source
    ours = part.tokens[len(begin) : len(part.tokens) - len(end)].tolist()
    starts = [start - len(begin) for start in part.labels["starts"]]
    numbers = encoding.word_ids()
    if kind is bart_like:
        after = next((place for place, number in enumerate(numbers) if number), len(numbers))
        first = starts[1] if len(starts) > 1 else len(ours)
        assert ours[first:] == encoding["input_ids"][after:]
        assert [start - first for start in starts[1:]] == [
            numbers.index(number) - after for number in range(1, len(words))
        ]
    else:
        assert ours == encoding["input_ids"]
        assert starts == [numbers.index(number) for number in range(len(words))]


@pytest.mark.parametrize("kind", KINDS)
@given(words=WORDS, context=st.integers(12, 40))
def test_windows_hold_every_word_once_and_fit(kind: Callable[[], Tokenizer], words: list[str], context: int):
    tokenizer = kind()
    parts = parts_of(words, tokenizer, context)
    assert [word for part in parts for word in part.labels["tokens"]] == words
    assert [name for part in parts for name in part.labels["tags"]] == [str(number) for number in range(len(words))]
    assert [(part.labels["window"], part.labels["windows"]) for part in parts] == [
        (number, len(parts)) for number in range(len(parts))
    ]
    assert all(len(part.tokens) <= context for part in parts)
    begin, end = tokenizer.around_source
    inside = [part.tokens[len(begin) : len(part.tokens) - len(end)] for part in parts]
    whole = tokenizer.encode(" ".join(words))
    if not any(part.cut for part in parts):
        assert np.concatenate(inside).tolist() == whole
    room = context - len(begin) - len(end)
    assert len(parts) >= -(-len(whole) // room) or any(part.cut for part in parts)


def test_windows_are_about_equal():
    [one, other] = parts_of(["palavra"] * 21, byte_level(), 20)
    assert abs(len(one.tokens) - len(other.tokens)) <= 1


def test_a_word_that_is_longer_than_a_window_keeps_its_tag_and_is_said_to_be_cut():
    parts = parts_of(["a", "xyz" * 20, "b"], byte_level(), 12)
    assert [part.cut for part in parts] == [False, True, False]
    assert [name for part in parts for name in part.labels["tags"]] == ["0", "1", "2"]
    assert all(len(part.tokens) <= 12 for part in parts)


def test_words_without_tokens_have_no_start_and_words_may_hold_spaces():
    [part] = parts_of(["", "New York", "​", "x"], wordpiece())
    assert part.labels["starts"][0] == NO_TOKEN
    assert part.labels["starts"][1] == 1
    assert part.labels["starts"][-1] == len(part.tokens) - 2
    assert parts_of(["​"], wordpiece()) == ()


def test_a_row_is_read_with_its_tags_and_what_stands_beside():
    row, bad_rows = read(tokens=["a", "b"], tags=["O", "B-X"], id="s1", weight=2.0, other=1)
    assert row is not None
    assert dict(row.labels) == {"tokens": ["a", "b"], "tags": ["O", "B-X"], "id": "s1", "weight": 2.0}
    assert row.prompt == "a b"
    assert not bad_rows.summary().count("left out")


def test_whole_numbers_are_names_of_tags():
    row, _ = read(tokens=["a", "b", "c"], tags=[3, 0, 1.0])
    assert row is not None
    assert row.labels["tags"] == ["3", "0", "1"]


@pytest.mark.parametrize(
    ("fields", "kind", "detail"),
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, BAD_LABEL, "1 words and 2 tags"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, BAD_LABEL, "2 words and 1 tags"),
        ({"tokens": ["a"], "tags": "O"}, BAD_LABEL, "'tags' holds a str, not a list of tags"),
        ({"tokens": ["a", "b"], "tags": ["O", {"x": 1}]}, BAD_LABEL, "tag 2 is {'x': 1}"),
        ({"tokens": ["a"], "tags": [True]}, BAD_LABEL, "tag 1 is True"),
        ({"tokens": ["a"], "tags": [0.5]}, BAD_LABEL, "tag 1 is 0.5"),
        ({"tokens": "a b", "tags": ["O", "O"]}, NOT_TEXT, "'tokens' holds a str, not a list of words"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, NOT_TEXT, "holds a int among the words"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, NOT_TEXT, "holds a NoneType among the words"),
        ({"tokens": [], "tags": []}, EMPTY, "'tokens' is an empty list"),
        ({"tokens": ["  "], "tags": ["O"]}, EMPTY, ""),
        ({"tokens": ["a"]}, MISSING_COLUMN, "tags"),
        ({"tags": ["O"]}, MISSING_COLUMN, "tokens"),
        ({"tokens": ["a"], "tags": None}, UNLABELLED, "'tags' is empty"),
        ({"tokens": ["a", "b"], "tags": [None, ""]}, UNLABELLED, "'tags' is empty"),
    ],
)
def test_rows_that_cannot_be_used_are_counted_with_their_place(fields: dict[str, Any], kind: str, detail: str):
    row, bad_rows = read(**fields)
    assert row is None
    assert bad_rows.counts == {kind: 1}
    [(place, told)] = bad_rows.examples[kind]
    assert place == "data.jsonl:7"
    assert detail in told
    with pytest.raises(InputError, match=r"data\.jsonl:7"):
        TaggedColumns().read(SourceDocument("", "data", "data.jsonl:7", fields), BadRows("error"))


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        (["O", "I-PER"], "tag 2 is 'I-PER', which follows O"),
        (["B-PER", "I-LOC"], "tag 2 is 'I-LOC', which follows B-PER"),
        (["B-PER", "I-PER"], None),
        (["NOUN", "I-PER"], None),  # names of their own
        (["S-PER", "E-PER"], None),  # BIOES
    ],
)
def test_tags_that_break_the_rules_of_bio_are_noted_and_learned_as_they_are(tags: list[str], told: str | None):
    row, bad_rows = read(tokens=["a", "b"], tags=tags)
    assert row is not None
    assert row.labels["tags"] == tags
    assert bad_rows.notes == ({ODD_TAGS: 1} if told else {})
    if told:
        assert told in bad_rows.summary()


def test_words_without_a_tag_are_noted():
    row, bad_rows = read(tokens=["a", "b"], tags=["O", None])
    assert row is not None
    assert row.labels["tags"] == ["O", None]
    assert bad_rows.notes == {UNTAGGED: 1}


def test_a_reader_is_made_again_of_its_plain_values():
    reader = TaggedColumns("words", "upos")
    assert TaggedColumns(**reader.to_json()) == reader


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=60))
def test_offsets_belong_to_the_ids_of_the_text(kind: Callable[[], Tokenizer], text: str):
    [found] = encode_with_offsets(kind(), [text])
    assert found.ids.tolist() == kind().encode(text)
    assert ((found.offsets >= 0) & (found.offsets <= len(text))).all()
    for start, end in found.without_spaces(text).tolist():
        assert start == end or (text[start : start + 1].strip() and text[end - 1 : end].strip())


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_of_a_text_that_is_encoded_in_pieces(kind: Callable[[], Tokenizer]):
    text = " ".join(f"palavra{number}" for number in range(4000))
    [found] = encode_with_offsets(kind(), [text])
    assert found.ids.tolist() == kind().encode(text)
    read = [text[start:end] for start, end in found.without_spaces(text).tolist()]
    assert "".join(read) == text.replace(" ", "")


def test_made_up_rows_are_well_formed():
    for fields in tagged(16):
        row, bad_rows = read(**fields)
        assert row is not None
        assert not bad_rows.notes

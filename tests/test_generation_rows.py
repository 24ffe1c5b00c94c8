"""Text leaves whole characters at a time, and stop strings are found wherever tokens end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from byte_level import ByteTokenizer
from lavra.generation.rows import TextAssembler

TOKENIZER: Any = ByteTokenizer()


def assembled(text: str, stop: tuple[str, ...] = (), prompt: str = "") -> list[str]:
    assembler = TextAssembler(TOKENIZER, TOKENIZER.encode(prompt), stop)
    pieces = []
    for token in TOKENIZER.encode(text):
        pieces.append(assembler.add(token))
        if assembler.stopped:
            return pieces
    return [*pieces, assembler.finish()]


@given(text=some.text(max_size=30), prompt=some.text(max_size=10))
def test_pieces_join_to_the_text(text: str, prompt: str) -> None:
    assert "".join(assembled(text, prompt=prompt)) == text.rstrip("\ufffd")


@given(
    text=some.text("ab\n\u00e9", max_size=30),
    stop=some.lists(some.text("ab\n\u00e9", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    pieces = assembled(text, tuple(stop))
    found = [place for place in (text.find(one) for one in stop) if place >= 0]
    joined = "".join(pieces)
    if found:
        # The stop string that is complete first ends the text; a longer one that begins earlier is cut off with it.
        ends = min(text.find(one) + len(one) for one in stop if one in text)
        assert joined == text[: min(text[:ends].find(one) for one in stop if one in text[:ends])]
    else:
        assert joined == text


def test_borders_of_tokens_do_not_move_the_end() -> None:
    words = ["x a", "bc"]
    tokenizer: Any = SimpleNamespace(decode=lambda ids: "".join(words[one] for one in ids))
    assembler = TextAssembler(tokenizer, (), ("abc", "b"))
    assert [assembler.add(0), assembler.add(1)] == ["x ", "a"]
    assert assembler.stopped
    assert "".join(assembled("x abc", ("abc", "b"))) == "x a"


def test_half_a_character_is_never_given_out() -> None:
    pieces = assembled("até já 🙂!")
    assert pieces == ["a", "t", "", "é", " ", "j", "", "á", " ", "", "", "", "🙂", "!", ""]
    assembler = TextAssembler(TOKENIZER)
    assert [assembler.add(token) for token in "é".encode()[:1]] == [""]
    assert assembler.finish() == ""


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    assert assembled("one\nQ:", ("\nQ:",)) == ["o", "n", "e", "", "", ""]
    assert assembled("a\nb", ("\nQ:",)) == ["a", "", "\nb", ""]
    assert assembled("a\n", ("\nQ:",)) == ["a", "", "\n"]


def test_a_real_tokenizer_gives_the_text_of_its_decoding() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    text = "A lavra é boa; lavrar é preciso. Ótimo! 🙂🙂 naïve coöperation " * 3
    whole = tokenizers.Tokenizer(tokenizers.models.BPE())
    whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    whole.train_from_iterator([text], trainer)
    assembler = TextAssembler(whole)
    pieces = [assembler.add(token) for token in whole.encode(text).ids]
    assert "".join([*pieces, assembler.finish()]) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_tokens_whose_text_depends_on_the_token_before() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁um": 0, "▁dois": 1}, unk_token="▁um"))
    words.decoder = tokenizers.decoders.Metaspace()
    assembler = TextAssembler(words)
    assert [assembler.add(token) for token in (0, 1, 1)] == ["um", " dois", " dois"]
    continued = TextAssembler(words, [0])
    assert continued.add(1) == " dois"

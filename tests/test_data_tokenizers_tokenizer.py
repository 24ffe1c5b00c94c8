"""Tokenizers: lossless, the same ids in pieces as in one, and every format in which they are found."""

import json
import random
import re
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from lavra.core.errors import InputError
from lavra.data.tokenizers import tokenizer as tokenizer_module
from lavra.data.tokenizers.report import TokenizerReport
from lavra.data.tokenizers.streaming import PIECE, Cut, cut_chunks
from lavra.data.tokenizers.tokenizer import END_OF_DOCUMENT, Tokenizer, choose_vocabulary_size

PORTUGUESE = (
    "Não há caminho, disse-lhe a avó; o caminho faz-se ao andar. Em 1889 caiu o império, e d'água viva "
    "nasceram à beira-mar as ações, os corações e os pães de São João.\n\nO sertão vai virar mar?\n"
)


@pytest.fixture(scope="module")
def english() -> str:
    return "\n".join(topics[name] for name in sorted(topics))[:400_000]


@pytest.fixture(scope="module")
def unigram(english: str) -> Tokenizer:
    """A Unigram model as SentencePiece makes them: spaces become ▁, one is put before the text."""
    inner = Library(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    inner.train_from_iterator([english[:20_000]], trainer)
    return Tokenizer(inner, "</s>")


@pytest.fixture(scope="module")
def tokenizer(english: str) -> Tokenizer:
    return Tokenizer.train([english, PORTUGUESE * 50], 1000)


def gpt2(english: str) -> Tokenizer:
    """A byte-level BPE with GPT-2's own division into words."""
    inner = Library(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [END_OF_DOCUMENT]
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    inner.train_from_iterator([english], trainer)
    return Tokenizer(inner)


def wordpiece() -> Tokenizer:
    inner = Library(
        models.WordPiece(
            {"[UNK]": 0, "[SEP]": 1, "a": 2, "b": 3, "##b": 4}, unk_token="[UNK]", max_input_chars_per_word=100
        )
    )
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(inner, "[SEP]")


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_every_text_decodes_to_itself(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.byte_level
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_lie_within_the_vocabulary_and_never_end_a_document(tokenizer: Tokenizer, english: str) -> None:
    ids = np.array(tokenizer.encode(english + END_OF_DOCUMENT))
    assert tokenizer.vocabulary_size == 1000
    assert ids.max() < tokenizer.vocabulary_size
    assert tokenizer.end_of_document == 0
    assert not (ids == tokenizer.end_of_document).any()
    assert tokenizer.decode([*tokenizer.encode("fim"), 0]) == "fim"
    assert tokenizer.decode([*tokenizer.encode("fim"), 0], special=True) == "fim" + END_OF_DOCUMENT


def test_words_keep_their_accents_their_clitics_and_two_digits_at_a_time(tokenizer: Tokenizer) -> None:
    split = tokenizer.inner.pre_tokenizer
    assert split is not None

    def words(text: str) -> list[str]:
        return [text[start:end] for _, (start, end) in split.pre_tokenize_str(text)]

    assert words("Coração não se dá, faz-se.") == ["Coração", " não", " se", " dá", ",", " faz", "-se", "."]
    assert words("a\u0303o é pa\u0303o") == ["a\u0303o", " é", " pa\u0303o"]
    assert words("em 1889") == ["em", " 18", "89"]
    assert words("d'água isn't") == ["d", "'água", " isn", "'t"]
    assert words("um.\n\n  dois") == ["um", ".\n\n", " ", " dois"]


@pytest.mark.parametrize("make", ["ours", "gpt2", "unigram"])
def test_pieces_give_the_ids_of_the_whole(
    make: str, tokenizer: Tokenizer, unigram: Tokenizer, english: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"ours": tokenizer, "gpt2": gpt2(english), "unigram": unigram}[make]
    assert made.cut is not None
    text = english[:60_000] + PORTUGUESE * 20
    whole = made.inner.encode(text, add_special_tokens=False).ids
    for size in (500, 1000, 7777):
        monkeypatch.setattr(tokenizer_module, "PIECE", size)
        monkeypatch.setattr("lavra.data.tokenizers.streaming.PIECE", size)
        pieces = list(cut_chunks(text, made.cut, size))
        assert len(pieces) > 5
        assert [
            number for piece in pieces for number in made.inner.encode(piece, add_special_tokens=False).ids
        ] == whole
        assert made.encode(text) == whole


@given(st.text("ab1 .\n", max_size=300), st.integers(4, 40))
def test_pieces_are_short_and_add_up(text: str, size: int) -> None:
    pieces = list(cut_chunks(text, Cut.BEFORE_SPACE, size))
    assert "".join(pieces) == text
    assert all(len(piece) <= size for piece in pieces)


def test_a_long_line_without_a_space_is_encoded_in_pieces_so_that_it_takes_linear_time(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, lengths = Tokenizer._encode_batch, []

    def noted(self: Tokenizer, batch: list[tuple[str, bool]]) -> list[Any]:
        lengths.extend(len(piece) for piece, _ in batch)
        return encode(self, batch)

    monkeypatch.setattr(Tokenizer, "_encode_batch", noted)
    text = "ção" * 50_000
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert sum(lengths) == len(text)
    assert max(lengths) <= PIECE


def test_many_texts_give_what_each_gives(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "_BATCH", 300)
    texts = ["", "um", PORTUGUESE, PORTUGUESE * 5, " ", "fim"]
    arrays = tokenizer.encode_many(texts)
    assert [array.tolist() for array in arrays] == [tokenizer.encode(text) for text in texts]
    assert all(array.dtype == np.int32 for array in arrays)
    assert tokenizer.encode_many([]) == []


def test_a_saved_tokenizer_loads_as_the_same_and_opens_with_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    for path in (tmp_path / "tokenizer", tmp_path / "tokenizer" / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.end_of_document == tokenizer.end_of_document
        assert loaded.encode(PORTUGUESE) == tokenizer.encode(PORTUGUESE)
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert theirs(PORTUGUESE)["input_ids"] == [tokenizer.document_bos, *tokenizer.encode(PORTUGUESE)]
    assert theirs.bos_token_id == tokenizer.document_bos == tokenizer.end_of_document
    assert theirs.eos_token_id == tokenizer.end_of_document


def test_training_is_deterministic_and_its_fingerprint_tells_tokenizers_apart(english: str) -> None:
    one, same, other = (Tokenizer.train([english[:50_000]], size) for size in (300, 300, 301))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_text_without_spaces_is_learned_from() -> None:
    source = random.Random(0)
    words = ["".join(chr(0x4E00 + source.randrange(200)) for _ in range(3)) for _ in range(60)]
    texts = ["".join(source.choices(words, k=500)) for _ in range(20)]
    whole = Tokenizer.train(texts, 600)
    assert whole.vocabulary_size == 600
    pieces = Tokenizer.train([text[at : at + 300] for text in texts for at in range(0, len(text), 300)], 600)
    assert len(whole.encode(texts[0])) < 1.2 * len(pieces.encode(texts[0]))


@given(
    st.lists(
        st.sampled_from(["x", "漢", " ", "\n", "palavra "]).flatmap(lambda one: st.integers(1, 40).map(one.__mul__))
    )
)
def test_pieces_to_train_on_are_all_of_the_text(parts: list[str]) -> None:
    text = "".join(parts)
    before = tokenizer_module._LONG_RUN, tokenizer_module._RUN_PIECE
    tokenizer_module._LONG_RUN, tokenizer_module._RUN_PIECE = re.compile(r"\S{20,}|\s{20,}"), 7
    try:
        pieces = list(tokenizer_module._training_pieces(text))
    finally:
        tokenizer_module._LONG_RUN, tokenizer_module._RUN_PIECE = before
    assert "".join(pieces) == text
    assert not any(re.search(r"\S{20,}|\s{20,}", piece) for piece in pieces)


def test_long_runs_in_the_sample_do_not_stop_the_training() -> None:
    # Each merge walks through the whole of a run: with runs of this length, the training would take hours.
    made = Tokenizer.train(["x" * 300_000 + " " * 300_000 + "=" * 300_000 + PORTUGUESE], 400)
    assert made.encode("x" * 1000)


@pytest.mark.parametrize(
    "names", [("vocab.json", "merges.txt"), ("opt-vocab.json", "opt-merges.txt"), ("encoder.json", "vocab.bpe")]
)
def test_a_pair_of_vocabulary_and_merges_is_gpt2s_bpe(names: tuple[str, str], english: str, tmp_path: Path) -> None:
    made = gpt2(english)
    description = json.loads(made.serialised)["model"]
    (tmp_path / names[0]).write_text(json.dumps(description["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in description["merges"]]
    (tmp_path / names[1]).write_text("\n".join(["#version: 0.2", *merges]))
    for path in (tmp_path, *(tmp_path / name for name in names)):
        loaded = Tokenizer.load(path)
        assert loaded.end_of_document_token == END_OF_DOCUMENT
        assert loaded.encode(PORTUGUESE + END_OF_DOCUMENT) == made.encode(PORTUGUESE + END_OF_DOCUMENT)


def test_the_end_of_a_document_is_what_the_folder_says_else_a_usual_name_else_a_new_token(tmp_path: Path) -> None:
    inner = Library(models.WordLevel({"a": 0, "<stop>": 1, "</s>": 2}, unk_token="a"))
    inner.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).end_of_document == 2
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<stop>"}}))
    assert Tokenizer.load(tmp_path).end_of_document == 1
    bare = Library(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    bare.save(str(tmp_path / "bare.json"))
    added = Tokenizer.load(tmp_path / "bare.json")
    assert (added.end_of_document, added.vocabulary_size) == (2, 3)


def test_a_text_that_spells_the_end_of_a_document_does_not_end_it(unigram: Tokenizer) -> None:
    arrays = unigram.encode_many(["the end </s> of"])
    assert unigram.end_of_document not in arrays[0]
    assert "the end" in unigram.decode(arrays[0])


def test_special_tokens_of_a_template_are_not_added() -> None:
    made = wordpiece()
    made.inner.add_special_tokens([AddedToken("[CLS]", special=True)])
    assert made.encode("a b") == [2, 3]


def test_what_is_no_tokenizer_says_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text('{"model": {"type": "Nothing"}}')
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "vocab.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.doc").write_text("")
    for name, message in [
        ("nowhere", "there is no tokenizer at"),
        ("broken", "cannot be read as a tokenizer"),
        ("half", "merges.txt is missing"),
        ("empty", "holds no tokenizer"),
        ("notes.doc", "is no tokenizer"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            Tokenizer.load(tmp_path / name)
        assert caught.value.remedy
    with pytest.raises(InputError, match="too small"):
        Tokenizer.train(["a"], 100)


def test_the_report_counts_what_it_says(tokenizer: Tokenizer) -> None:
    report = TokenizerReport.measure(tokenizer, [PORTUGUESE, "漢字"])
    ids = tokenizer.encode(PORTUGUESE) + tokenizer.encode("漢字")
    size = len(PORTUGUESE.encode()) + 6
    single = sum(len(tokenizer.inner.id_to_token(number) or "") == 1 for number in ids)
    assert report.tokens == len(ids)
    assert report.fertility == pytest.approx(len(ids) / (len(PORTUGUESE.split()) + 1))
    assert report.bytes_per_token == pytest.approx(size / len(ids))
    assert report.single_byte_share == pytest.approx(single / len(ids))
    assert report.unknown_rate == 0
    assert 0 < report.used_share < 1
    assert tokenizer.token_lengths()[ids].sum() == size


def test_the_report_counts_unknown_tokens() -> None:
    report = TokenizerReport.measure(wordpiece(), ["a ab zz"])
    assert report.tokens == 4
    assert report.unknown_rate == 0.25


def test_vocabularies_grow_with_the_corpus_and_stay_small_for_small_models() -> None:
    sizes = [choose_vocabulary_size(size) for size in (1000, 10**6, 10**7, 10**8, 10**12)]
    assert sizes == [2048, 2048, 8192, 32768, 32768]
    assert choose_vocabulary_size(10**8, model_parameters=3 * 10**6) < choose_vocabulary_size(10**8)
    assert choose_vocabulary_size(10**8, model_parameters=10**10) == choose_vocabulary_size(10**8)

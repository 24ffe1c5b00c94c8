"""Another vocabulary: rows that both have stay, others begin as mixtures of known ones, and the model stays whole."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from edited_models import OURS, base_model
from lavra.core.errors import InputError
from lavra.data.tokenizers.extension import extend_tokenizer
from lavra.data.tokenizers.token_bytes import BytePieces, token_bytes
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.building import build_decoder
from lavra.models.transforms.apply import is_tied
from lavra.models.transforms.base import root_of
from lavra.models.transforms.vocabulary import (
    auxiliary_vectors,
    recipes_by_mean,
    recipes_by_similarity,
    shared_tokens,
    sparsemax,
    swap_vocabulary,
)

ENGLISH = [
    "the cat sat on the mat and the cat ate the rat that sat there",
    "a cat and a rat are not the same animal",
] * 3
PORTUGUESE = [
    "o gato comeu o rato que estava ali e o gato dormiu",
    "não é o mesmo animal, a canção não é só do gato",
] * 3


@cache
def english() -> Tokenizer:
    return Tokenizer.train(ENGLISH, 300)


@cache
def portuguese() -> Tokenizer:
    return Tokenizer.train(PORTUGUESE, 310)


@cache
def sentencepiece() -> Tokenizer:
    """A Unigram tokenizer with ▁ and an unknown token."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    words = ["▁", "▁gato", "▁o", "▁n", "ão", "▁c", "an", "ç", *"abcdefghijklmnopqrstuvwxyzé"]
    inner = Library(models.Unigram([("<unk>", -9.0), *((word, -1.0 - 1 / len(word)) for word in words)], 0, False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["</s>"])
    return Tokenizer(inner, "</s>")


def model_for(name: str, tokenizer: Tokenizer, tied: bool = True) -> Any:
    if name != "ours":
        return base_model(name, vocab_size=tokenizer.vocabulary_size, eos_token_id=tokenizer.end_of_document)
    from dataclasses import replace

    return build_decoder(replace(OURS, vocabulary=tokenizer.vocabulary_size, tied=tied), seed=1)


def tables(model: Any) -> dict[str, torch.Tensor]:
    """Return what has a row for each id."""
    root: Any = root_of(model)
    vocabulary = model.output_projection()[0].shape[0]
    found = {name: p.detach() for name, p in root.named_parameters() if p.shape[0] == vocabulary}
    if hasattr(root, "final_logits_bias"):
        found["final_logits_bias"] = root.final_logits_bias[0]
    return found


@pytest.mark.parametrize("name", ["ours", "gpt2", "opt", "t5", "t5-gated", "bart", "bert"])
def test_rows_that_both_have_stay_and_new_ones_are_the_mean_of_their_parts(name: str) -> None:
    old, new = english(), portuguese()
    model = model_for(name, old, tied=name != "ours")
    before, tied = {key: table.clone() for key, table in tables(model).items()}, is_tied(model)
    assert swap_vocabulary(model, old, new) is model
    after = tables(model)
    assert set(after) == set(before)
    assert len(after) >= 1
    assert is_tied(model) == tied
    recipes, shared = recipes_by_mean(old, new), shared_tokens(old, new)
    assert len(shared) > 256
    for key, table in after.items():
        assert table.shape[0] == 320
        for number in range(new.vocabulary_size):
            ids = recipes[number][0]
            if number in shared:
                assert ids == [shared[number]]
                assert torch.equal(table[number], before[key][shared[number]])
            torch.testing.assert_close(table[number], before[key][ids].mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["ours", "gpt2", "bart"])
def test_the_same_tokenizer_changes_nothing(name: str) -> None:
    model = model_for(name, english())
    before = model.output_projection()[0][: english().vocabulary_size].detach().clone()
    swap_vocabulary(model, english(), english())
    assert torch.equal(model.output_projection()[0][: english().vocabulary_size], before)


def test_text_of_shared_tokens_has_the_same_likelihoods_up_to_the_new_ones() -> None:
    old, new = english(), portuguese()
    shared = shared_tokens(old, new)
    numbers = [number for number in new.encode("o gato") + new.encode("cat") if number in shared]
    theirs = [shared[number] for number in numbers]
    model = model_for("ours", old)
    before = model.head(model(torch.tensor([theirs])))[0][:, list(shared.values())]
    swap_vocabulary(model, old, new)
    after = model.head(model(torch.tensor([numbers])))[0][:, list(shared)]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert model.vocabulary == new.vocabulary_size
    assert model.head(model(torch.tensor([numbers]))).shape[-1] == new.vocabulary_size


def test_special_ids_of_wrapped_models_follow_their_names_and_roles() -> None:
    old, new = english(), sentencepiece()
    model = model_for("bart", old)
    swap_vocabulary(model, old, new)
    config = model.inner.config
    assert config.vocab_size == 64
    assert config.eos_token_id == model.inner.generation_config.eos_token_id == new.end_of_document
    assert 0 <= config.pad_token_id < new.vocabulary_size
    assert 0 <= config.decoder_start_token_id < new.vocabulary_size


def test_tokens_are_compared_by_what_they_stand_for_whatever_their_spelling() -> None:
    gato = sentencepiece().inner.get_vocab()["▁gato"]
    assert token_bytes(sentencepiece())[gato] == b" gato"
    assert shared_tokens(portuguese(), sentencepiece())[gato] == portuguese().inner.token_to_id("Ġgato")
    spelled = [token_bytes(portuguese())[number] or b"" for number in portuguese().encode(PORTUGUESE[1])]
    assert b"".join(spelled).decode() == PORTUGUESE[1]
    assert token_bytes(portuguese())[portuguese().end_of_document] is None
    names = [sentencepiece().inner.id_to_token(number) for number in BytePieces(sentencepiece()).ids(" nação".encode())]
    assert names == ["▁n", "a", "ç", "ão"]
    assert BytePieces(sentencepiece()).ids("象".encode()) == []
    assert BytePieces(sentencepiece()).ids(b"\xff") == []


def test_pieces_give_the_ids_of_the_tokenizer_itself() -> None:
    for tokenizer in (english(), portuguese()):
        for word in (" gato", " canção", "that"):
            assert BytePieces(tokenizer).ids(word.encode()) == tokenizer.encode(word)


def test_focus_mixes_anchors_that_occur_alike() -> None:
    old, new = english(), portuguese()
    recipes = recipes_by_similarity(old, new, PORTUGUESE)
    shared = set(shared_tokens(old, new).values())
    assert recipes
    assert not set(recipes) & set(shared_tokens(old, new))
    for ids, weights in recipes.values():
        assert set(ids) <= shared
        assert sum(weights) == pytest.approx(1.0)
        assert min(weights) > 0
    assert recipes == recipes_by_similarity(old, new, PORTUGUESE)
    model, other = model_for("ours", old), model_for("ours", old)
    swap_vocabulary(model, old, new, "focus", PORTUGUESE)
    swap_vocabulary(other, old, new)
    number, (ids, weights) = next(iter(recipes.items()))
    expected = torch.tensor(weights) @ model_for("ours", old).embedding.weight[ids]
    torch.testing.assert_close(model.embedding.weight[number], expected)
    assert not torch.equal(model.embedding.weight, other.embedding.weight)
    with pytest.raises(InputError, match="none was given"):
        swap_vocabulary(model, new, old, "focus")


def test_tokens_among_the_same_tokens_are_near() -> None:
    generator = np.random.default_rng(0)
    document = np.array([part for _ in range(200) for part in (0, generator.choice([1, 2]), 3, 4, 5, 6, 7)])
    vectors = auxiliary_vectors([document], 10)
    assert vectors[1] @ vectors[2] > max(vectors[1] @ vectors[other] for other in (0, 3, 4, 5, 6, 7))
    assert not vectors[8:].any()


def test_sparsemax_is_the_nearest_distribution() -> None:
    assert sparsemax(np.array([0.5, 0.5])) == pytest.approx([0.5, 0.5])
    assert sparsemax(np.array([2.0, 0.1, 0.0])) == pytest.approx([1.0, 0.0, 0.0])
    assert sparsemax(np.array([0.3, 0.9, 0.2])) == pytest.approx([1 / 6, 23 / 30, 1 / 15])  # each less 2 / 15


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="give the model's own tokenizer"):
        swap_vocabulary(base_model("ours"), english(), portuguese())


def test_an_extended_tokenizer_keeps_its_ids_and_writes_the_new_text_shorter() -> None:
    old = english()
    new = extend_tokenizer(old, PORTUGUESE, 30)
    assert new.vocabulary_size == old.vocabulary_size + 30
    assert new.end_of_document == old.end_of_document
    vocabulary = new.inner.get_vocab(with_added_tokens=True)
    assert all(vocabulary[token] == number for token, number in old.inner.get_vocab(with_added_tokens=True).items())
    for text in (*PORTUGUESE, *ENGLISH, "coisa nunca vista: 象"):
        assert new.decode(new.encode(text)) == text
    assert len(new.encode(PORTUGUESE[0])) < 0.7 * len(old.encode(PORTUGUESE[0]))
    assert new.inner.token_to_id("Ġgato") is not None
    untouched = "MY BIG BOX 42!"
    assert new.encode(untouched) == old.encode(untouched)
    used = {number for text in PORTUGUESE for number in new.encode(text)}
    assert len([number for number in used if number >= old.vocabulary_size]) > 10


def test_added_tokens_keep_their_ids_when_the_vocabulary_grows() -> None:
    inner = Tokenizer.train(ENGLISH, 300).inner
    inner.add_special_tokens(["<|system|>"])
    old = Tokenizer(inner)
    new = extend_tokenizer(old, PORTUGUESE, 5)
    assert new.inner.token_to_id("<|system|>") == old.inner.token_to_id("<|system|>")
    assert new.vocabulary_size == old.vocabulary_size + 5


def test_few_texts_give_few_tokens_and_other_kinds_are_refused() -> None:
    assert extend_tokenizer(english(), ["gato gato"], 100).vocabulary_size < english().vocabulary_size + 5
    with pytest.raises(InputError, match="a Unigram tokenizer cannot be extended"):
        extend_tokenizer(sentencepiece(), PORTUGUESE, 5)

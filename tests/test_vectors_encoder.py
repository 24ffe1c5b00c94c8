"""Vectors of texts are those of sentence-transformers on the same weights, whatever the order and the batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sentence_transformers")

from tests.little_tokenizers import byte_level, wordpiece
from tests.sentence_folders import LONGEST, TEXTS, sentence_folder, their_vectors, tiny_bert
from tests.tiny_training import lively

from lavra.core.errors import InputError
from lavra.models.native.low_precision import PackedLinear, can_pack
from lavra.models.native.store import save_decoder
from lavra.models.spec import DecoderSpec
from lavra.vectors import encoder as network
from lavra.vectors.batching import batches_by_length
from lavra.vectors.protocols import TextEncoder
from lavra.workflows.embeddings.open_encoder import open_encoder

SAME: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


def opened(folder: Path, **options: Any) -> Any:
    return open_encoder(str(folder), device="cpu", precision="fp32", **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mean", {}),
        ("first", {"pooling": "cls"}),
        ("max", {"pooling": "max"}),
        ("last", {"pooling": "lasttoken"}),
        ("dense", {"dense": 8}),
    ],
)
def test_the_vectors_are_those_of_sentence_transformers(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    folder = sentence_folder(tmp_path / name, **options)
    encoder = opened(folder)
    assert isinstance(encoder, TextEncoder)
    assert (encoder.dimensions, encoder.longest) == (options.get("dense", 16), LONGEST)
    ours, theirs = encoder.encode(TEXTS), their_vectors(folder)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, **SAME)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1.0, atol=1e-6)
    assert not np.allclose(ours[0], ours[2], atol=0.01)  # the texts do differ
    assert encoder.reading.cut.cut == sum(len(wordpiece().encode(text)) > LONGEST - 2 for text in TEXTS) > 0


def test_prompts_of_each_kind_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: ", "same": "value "}
    folder = sentence_folder(tmp_path / "prompts", prompts=prompts, default_prompt="same")
    encoder = opened(folder)
    for kind, method in (("text", "encode"), ("query", "encode_query"), ("passage", "encode_document")):
        np.testing.assert_allclose(encoder.encode(TEXTS, kind=kind), their_vectors(folder, method=method), **SAME)
    bare = opened(folder, prompts={})
    np.testing.assert_allclose(bare.encode(TEXTS, kind="query"), their_vectors(folder, prompt=""), **SAME)
    assert bare.fingerprint != encoder.fingerprint


def test_a_prompt_may_be_left_out_of_the_pooling(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "p", prompts={"query": "the value of "}, include_prompt=False)
    ours = opened(folder).encode(TEXTS, kind="query")
    np.testing.assert_allclose(ours, their_vectors(folder, method="encode_query"), **SAME)
    with_it = sentence_folder(tmp_path / "q", prompts={"query": "the value of "})
    assert not np.allclose(ours, opened(with_it).encode(TEXTS, kind="query"), atol=1e-2)


def test_a_folder_compared_by_the_cosine_has_vectors_of_length_one(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "raw", normalise=False)
    theirs = their_vectors(folder)
    assert np.linalg.norm(theirs, axis=1).max() > 1.5
    ours = opened(folder).encode(TEXTS)
    np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), **SAME)


def test_an_encoder_without_pooling_is_pooled_by_the_mean_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_bert(tmp_path / "bert")
    ours = opened(folder).encode(TEXTS)
    assert "does not say how the features of a text become its vector: their mean is taken" in capsys.readouterr().err
    theirs = their_vectors(folder, normalize_embeddings=True)
    np.testing.assert_allclose(ours, theirs, **SAME)


def test_a_model_called_e5_gets_the_prompts_of_its_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_bert(tmp_path / "e5-tiny")
    ours = opened(folder).encode(TEXTS, kind="passage")
    assert "family E5 by its name" in capsys.readouterr().err
    theirs = their_vectors(folder, prompt="passage: ", normalize_embeddings=True)
    np.testing.assert_allclose(ours, theirs, **SAME)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    spec = DecoderSpec(vocabulary=byte_level().vocabulary_size, width=16, depth=2, heads=2, context=48)
    save_decoder(folder, lively(spec))
    byte_level().save(folder)
    return folder


def test_a_decoder_gives_the_features_of_the_last_token(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = opened(decoder)
    assert "those of its last token are taken" in capsys.readouterr().err
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, **SAME)
    assert together.shape == (len(TEXTS), 16)


def test_fewer_dimensions_are_the_first_ones_of_length_one(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "full")
    whole, few = opened(folder).encode(TEXTS), opened(folder, dimensions=4)
    first = whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(few.encode(TEXTS), first, **SAME)
    assert few.fingerprint != opened(folder).fingerprint
    with pytest.raises(InputError, match="16 dimensions, not of 17"):
        opened(folder, dimensions=17)


def test_the_fingerprint_names_what_the_vectors_depend_on(tmp_path: Path) -> None:
    one, other = (sentence_folder(tmp_path / name, pooling=name) for name in ("mean", "max"))
    assert opened(one).fingerprint == opened(one).fingerprint == open_encoder(str(one), precision="bf16").fingerprint
    assert opened(one).fingerprint != opened(other).fingerprint
    (tmp_path / "moved").mkdir()
    assert (
        opened(one.rename(tmp_path / "moved" / "there")).fingerprint == opened(tmp_path / "moved" / "there").fingerprint
    )


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = opened(sentence_folder(tmp_path / "batches"))
    expected = np.concatenate([encoder.encode([text]) for text in TEXTS])
    for most in (1, 40, 100_000):
        monkeypatch.setattr(encoder, "_most", most)
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, **SAME)
    monkeypatch.setattr(network, "_TEXTS_AT_ONCE", 3)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, **SAME)
    assert encoder.encode([]).shape == (0, 16)


def test_bf16_gives_nearly_the_same_vectors(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "bf16")
    half = open_encoder(str(folder), device="cpu", precision="bf16")
    cosines = (opened(folder).encode(TEXTS) * half.encode(TEXTS)).sum(1)
    assert 1 - 1e-6 > cosines.min() > 0.99
    packed = [module for module in half.model.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == (12 if can_pack(half.device, torch.bfloat16) else 0)


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 200), st.integers(1, 200))
def test_every_text_is_in_one_batch(lengths: list[int], most: int, least: int) -> None:
    batches = list(batches_by_length(lengths, most, least))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[number] for number in batch)
        assert len(batch) == 1 or longest * len(batch) <= most
        of_one_length = [number for number in batch if lengths[number] == longest]
        assert len(of_one_length) == len(batch) or longest * len(of_one_length) < least


def test_what_makes_no_vectors_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model at"):
        open_encoder(str(tmp_path / "nothing"))
    folder = sentence_folder(tmp_path / "odd")
    (folder / "modules.json").write_text(
        (folder / "modules.json").read_text().replace("Normalize", "LSTM"), encoding="utf8"
    )
    with pytest.raises(InputError, match="has a module LSTM, which lavra does not compute"):
        opened(folder)

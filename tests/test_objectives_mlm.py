"""Masked language modelling: what is hidden, how often, by which stream, and what the model is asked of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_models as tiny
from lavra.core.errors import InputError
from lavra.core.seeds import row_streams
from lavra.data.packing import Window, WindowSource
from lavra.data.token_store.prepare import open_prepared, prepare
from lavra.data.token_store.writer import StoreWriter
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.data.tokenizers.word_boundaries import Words
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.mlm import MaskedLM, mask_token_of
from lavra.training.batches import BatchSource
from little_tokenizers import TEXTS, bart_like, byte_level, unigram, wordpiece

CONTEXT = 64


@cache
def masked(tokenizer: Tokenizer, **options: Any) -> MaskedLM:
    return MaskedLM(CONTEXT, mask_token_of(tokenizer), Words.of(tokenizer), **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> WindowSource:
    folder = tmp_path_factory.mktemp("store") / "store"
    tokenizer = wordpiece()
    with StoreWriter(folder, tokenizer, begin=tokenizer.bos) as writer:
        for text in TEXTS[:24]:
            writer.add("topics", text, np.array(tokenizer.encode(text)))
    return WindowSource(writer.opened(), CONTEXT, seed=0)


@pytest.fixture(scope="module")
def windows(source: WindowSource) -> list[Window]:
    return source.rows(0, source.order.windows)


def encoded(objective: MaskedLM, windows: list[Window], seed: int = 0, progress: float = 0.0) -> Batch:
    return objective.encode(windows, row_streams(seed, "test", first=0), progress)


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text as the objective sees them."""
    ids = np.array(tokenizer.encode(text))
    groups = Words.of(tokenizer).groups(ids, np.zeros(len(ids)))
    names = [str(tokenizer.inner.id_to_token(int(number))) for number in ids]
    return ["".join(names[place] for place in np.flatnonzero(groups == one)) for one in range(groups[-1] + 1)]


def test_words_are_found_by_the_marks_of_every_kind_of_tokenizer():
    text = "print the documentation: it(self), don't; 3.14"
    plain = ["print", "the", "documentation", ":", "it", "(", "self", ")", ",", "don", "'", "t", ";", "3", ".", "14"]
    assert [word.replace("##", "") for word in words_of(wordpiece(), text)] == plain
    for tokenizer in (byte_level(), bart_like()):
        found = words_of(tokenizer, text)
        assert "".join(found).replace("Ġ", " ") == text
        assert {"Ġthe", "Ġdocumentation"} <= set(found)
        assert all(not word[1:].isalpha() or word[1:].isalnum() for word in found)
    found = words_of(unigram(), "the documentation of the avó")
    assert found == ["▁the", "▁documentation", "▁of", "▁the", "▁avó"]
    portuguese = words_of(byte_level(), "A avó não disse nada")
    inner = byte_level().inner
    assert [inner.decoder.decode([word]) for word in portuguese] == ["A", " avó", " não", " disse", " nada"]


def test_no_word_goes_over_the_border_of_a_document_or_a_special_token():
    words = Words.of(wordpiece())
    tokenizer = wordpiece()
    piece = next(number for token, number in tokenizer.inner.get_vocab().items() if token.startswith("##"))
    letter = tokenizer.encode("a")[0]
    assert words.groups(np.array([letter, piece, piece]), np.array([0, 0, 1])).tolist() == [0, 0, 1]
    ids = np.array([letter, tokenizer.end_of_document, piece])
    assert words.groups(ids, np.zeros(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("whole_words", [True, False])
def test_four_of_five_are_masked_and_one_of_ten_random(windows: list[Window], whole_words: bool):
    objective = masked(wordpiece(), whole_words=whole_words, rate=0.3)
    words = objective.words
    hidden = swapped = kept = text = 0
    for seed in range(60):
        batch = encoded(objective, windows, seed)
        chosen = (batch.targets != IGNORED).numpy()
        inputs, targets = batch.inputs.numpy(), batch.targets.numpy()
        original = np.where(chosen, targets, inputs)
        real = batch.document_ids.numpy() >= 0  # pyright: ignore[reportOptionalMemberAccess]
        assert not words.special[original[chosen]].any()
        assert (
            inputs[~chosen & real] == np.concatenate([window.tokens[1:] for window in windows])[~chosen[real]]
        ).all()
        assert not words.special[inputs[chosen & (inputs != objective.mask_token)]].any()
        hidden += int((inputs[chosen] == objective.mask_token).sum())
        swapped += int(((inputs != objective.mask_token) & (inputs != targets) & chosen).sum())
        kept += int((inputs[chosen] == targets[chosen]).sum())
        text += int((real & ~words.special[original]).sum())
        assert batch.weight == chosen.sum()
    total = hidden + swapped + kept
    same = 0.1 / len(words.texts)  # random tokens that are the right one by chance
    expected = np.array([0.8, 0.1 - same, 0.1 + same]) * total
    chi_squared = float((((np.array([hidden, swapped, kept]) - expected) ** 2) / expected).sum())
    assert chi_squared < 13.8  # 2 degrees of freedom: p = 0.001
    spread = 3 if not whole_words else 3 * 3  # words of several tokens come together, which spreads the count
    assert abs(total - 0.3 * text) < spread * (0.3 * 0.7 * text) ** 0.5


def test_the_tokens_of_a_word_are_hidden_together(windows: list[Window]):
    objective = masked(wordpiece(), rate=0.4)
    batch = encoded(objective, windows)
    apart = 0
    for row, window in enumerate(windows):
        chosen = (batch.targets[row, : len(window)] != IGNORED).numpy()
        groups = objective.words.groups(window.tokens[1:], window.document_ids)
        for word in range(groups[-1] + 1):
            assert len(set(chosen[groups == word].tolist())) == 1
        single = (encoded(replace(objective, whole_words=False), [window]).targets[0, : len(window)] != IGNORED).numpy()
        apart += any(len(set(single[groups == word].tolist())) == 2 for word in range(groups[-1] + 1))
    assert apart


def test_pure_masking_hides_all_that_is_chosen(windows: list[Window]):
    objective = masked(wordpiece(), mask_share=1.0, random_share=0.0)
    batch = encoded(objective, windows)
    assert (batch.inputs[batch.targets != IGNORED] == objective.mask_token).all()


def test_the_rate_changes_linearly_and_a_flat_schedule_is_none(windows: list[Window]):
    falling = masked(wordpiece(), rate=0.4, final_rate=0.2)
    assert [falling.rate_at(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.3, 0.2])
    weights = [encoded(falling, windows, progress=progress).weight for progress in (0.0, 0.5, 1.0)]
    assert weights[0] > weights[1] > weights[2]
    flat, plain = masked(wordpiece(), rate=0.15, final_rate=0.15), masked(wordpiece())
    for progress in (0.0, 0.7):
        one, other = (encoded(objective, windows, progress=progress) for objective in (flat, plain))
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_what_is_hidden_does_not_depend_on_the_micro_batch(source: WindowSource, micro_batch_size: int):
    def parts(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        made = BatchSource(source, masked(wordpiece()), global_batch_size=8, micro_batch_size=rows, steps=9, seed=3)
        batches = made.micro_batches(5)
        made.close()
        return torch.cat([batch.inputs for batch in batches]), torch.cat([batch.targets for batch in batches])

    for one, other in zip(parts(micro_batch_size), parts(8), strict=True):
        assert torch.equal(one, other)


def test_epochs_hide_differently(source: WindowSource):
    made = BatchSource(source, masked(wordpiece()), global_batch_size=4, micro_batch_size=4, steps=9, seed=3)
    first, second = made.micro_batches(0)[0], made.micro_batches(1)[0]
    made.close()
    assert not torch.equal(first.targets != IGNORED, second.targets != IGNORED)


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_documents_of_a_window_see_themselves_only_in_both_directions(name: str, windows: list[Window]):
    """The loss of a window is that of its documents' parts alone; what follows a hidden token changes its guess."""
    model = tiny.shared_model(name)
    objective = masked(wordpiece(), rate=0.4)
    window = next(one for one in windows if one.document_ids.max() >= 1)
    small = replace(window, tokens=window.tokens % tiny.VOCABULARY)
    batch = encoded(objective, [small])
    batch.inputs, batch.targets = (
        batch.inputs % tiny.VOCABULARY,
        batch.targets.where(batch.targets == IGNORED, batch.targets % tiny.VOCABULARY),
    )
    assert batch.document_ids is not None
    with torch.no_grad():
        together = objective.loss(model, batch)
        alone = 0.0
        for segment in range(int(batch.document_ids.max()) + 1):
            part = batch.document_ids[0] == segment
            one = Batch(
                batch.inputs[:, part], batch.targets[:, part], weight=float((batch.targets[0, part] >= 0).sum())
            )
            alone += float(objective.loss(model, one).sum)
        assert float(together.sum) == pytest.approx(alone, rel=1e-5)
        follows = batch.document_ids[0, 1:] == batch.document_ids[0, :-1]
        first = int(((batch.targets[0, :-1] >= 0) & follows).nonzero()[0, 0])
        follower = batch.inputs.clone()
        follower[0, first + 1] = (follower[0, first + 1] + 1) % tiny.VOCABULARY
        features = [model.features(one)[0, first] for one in (batch, replace(batch, inputs=follower))]
        assert not torch.allclose(features[0], features[1])


def test_the_loss_is_that_of_transformers(windows: list[Window]):
    model = tiny.shared_model("bert")
    objective = masked(wordpiece(), isolate=False)
    batch = encoded(objective, [window for window in windows if len(window) == CONTEXT][:3])
    assert batch.document_ids is None
    batch.inputs = batch.inputs % tiny.VOCABULARY
    batch.targets = batch.targets.where(batch.targets == IGNORED, batch.targets % tiny.VOCABULARY)
    with torch.no_grad():
        loss = objective.loss(model, batch)
        theirs = model.inner(input_ids=batch.inputs, labels=batch.targets).loss
    assert float(loss.sum) / loss.weight == pytest.approx(float(theirs), rel=1e-5)


def test_documents_begin_and_end_with_their_marks(tmp_path: Path):
    tokenizer = wordpiece()
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:4]), encoding="utf8")
    (tmp_path / "b.txt").write_text(TEXTS[7], encoding="utf8")
    prepared = prepare([str(tmp_path)], tmp_path / "out", tokenizer=tokenizer, bos=True)
    begin, end = (int(tokenizer.inner.token_to_id(name) or -1) for name in ("[CLS]", "[SEP]"))
    assert prepared.train.manifest.begin_of_document == begin
    for store in (prepared.train, prepared.validation):
        for number in range(len(store)):
            ids = store.document(number)
            assert (ids[0], ids[-1], int(np.isin(ids, [begin, end]).sum())) == (begin, end, 2)
    window = WindowSource(prepared.train, CONTEXT, 0).rows(0, 4)
    for one in window:
        starts = np.flatnonzero(np.diff(one.document_ids)) + 1
        assert (one.tokens[1:][starts] == begin).all()
    plain = prepare([str(tmp_path / "a.txt")], tmp_path / "plain", tokenizer=tokenizer)
    assert plain.train.manifest.begin_of_document is None
    assert begin not in plain.train.tokens
    manifest = tmp_path / "plain" / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"begin_of_document": null,', ""))  # as stores were before
    assert open_prepared(tmp_path / "plain").train.manifest.begin_of_document is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "a masking rate of 0.0"),
        ({"final_rate": 1.5}, "a masking rate of 1.5"),
        ({"mask_share": 0.8, "random_share": 0.3}, "no shares of one whole"),
    ],
)
def test_impossible_rates_are_refused(options: dict[str, float], message: str):
    with pytest.raises(InputError, match=message):
        MaskedLM(CONTEXT, 4, Words.of(wordpiece()), **options)  # pyright: ignore[reportArgumentType]


def test_a_tokenizer_without_a_mask_is_refused():
    assert mask_token_of(bart_like()) == bart_like().inner.token_to_id("<mask>")
    with pytest.raises(InputError, match="has no mask token"):
        mask_token_of(byte_level())

"""The likelihood equals one token at a time in float64, whatever the batch, and is summed, never averaged twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from byte_level import ByteTokenizer, lively_decoder
from lavra.core.errors import InputError, LavraError
from lavra.data.readers.rows import SourceDocument
from lavra.data.token_store.writer import StoreWriter
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.evaluation.baselines import baselines, unigram
from lavra.evaluation.documents import Documents, documents_of_rows, documents_of_store
from lavra.evaluation.likelihood import likelihood, make_batch, plan_windows
from lavra.evaluation.results import likelihood_table
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives import cross_entropy

TEXTS = ["a", "Ação e reação: não há pressa.", "the quick brown fox jumps over the lazy dog " * 2, "x y", "", "um dois"]
TOKENIZER: Any = ByteTokenizer()


def documents(texts: list[str] = TEXTS) -> Documents:
    return documents_of_rows(texts, TOKENIZER)


def one_token_at_a_time(model: Any, documents: Documents, context: int, stride: int) -> list[float]:
    """The definition: each token by its own, with the context that the sliding window promises."""
    sums = []
    for start, end in zip(documents.starts, documents.ends, strict=True):
        stream = [documents.bos, *documents.tokens[start:end].tolist()]
        total = 0.0
        for target in range(1, len(stream)):
            window = 0 if target <= context else -(-(target - context) // stride)
            seen = torch.tensor([stream[window * stride : target]])
            logits = model.head(model.features(Batch(seen, seen)))[0, -1].double()
            total -= float(logits.log_softmax(-1)[stream[target]])
        sums.append(total)
    return sums


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 16), (16, 1), (7, 3), (1, 1), (16, 5)])
def test_equals_one_token_at_a_time(context: int, stride: int) -> None:
    model, data = lively_decoder(), documents()
    found = likelihood(model, data, context=context, stride=stride)
    with torch.no_grad():
        expected = one_token_at_a_time(model, data, context, stride)
    assert found.nll == pytest.approx(expected, rel=1e-12)
    assert found.total.tokens == sum(len(text.encode()) + 1 for text in TEXTS)


def test_independent_of_the_batch_in_float32() -> None:
    model, data = lively_decoder().float(), documents(TEXTS * 3)
    whole = likelihood(model, data, batch_tokens=100_000)
    for batch_tokens in (1, 40, 333):
        assert likelihood(model, data, batch_tokens=batch_tokens).nll == pytest.approx(whole.nll, rel=1e-6)
    assert np.array_equal(likelihood(model, data, batch_tokens=100_000).nll, whole.nll)


def test_documents_do_not_see_each_other() -> None:
    model = lively_decoder()
    together = likelihood(model, documents()).nll
    alone = [float(likelihood(model, documents([text])).nll[0]) for text in TEXTS]
    assert together == pytest.approx(alone, rel=1e-12)


def test_equals_the_loss_of_transformers() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_positions=128, n_embd=16, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256
    )
    reference = GPT2LMHeadModel(config).eval()

    class HFModel(torch.nn.Module):
        context, vocabulary = 128, 257

        def features(self, batch: Batch) -> torch.Tensor:
            return reference.transformer(input_ids=batch.inputs).last_hidden_state

        def head(self, features: torch.Tensor) -> torch.Tensor:
            return reference.lm_head(features)

        def output_projection(self) -> tuple[torch.Tensor, None]:
            return reference.lm_head.weight, None

    data = documents()
    found = likelihood(HFModel(), data)
    for number, (start, end) in enumerate(zip(data.starts, data.ends, strict=True)):
        ids = torch.tensor([[256, *data.tokens[start:end].tolist()]])
        with torch.no_grad():
            mean = reference(input_ids=ids, labels=ids).loss.item()
        assert found.nll[number] == pytest.approx(mean * (end - start), rel=1e-5)


def test_never_holds_the_logits_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = lively_decoder(), documents(TEXTS * 3)
    expected = likelihood(model, data).nll
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_BYTES", 0)
    monkeypatch.setattr(cross_entropy, "FEWEST_TOKENS", 64)
    sizes: list[int] = []
    make = cross_entropy.chunk_logits

    def watched(features: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(features))
        return make(features, *rest)

    monkeypatch.setattr(cross_entropy, "chunk_logits", watched)
    assert likelihood(model, data).nll == pytest.approx(expected, rel=1e-12)
    assert len(sizes) > 5
    assert max(sizes) <= 64


def test_out_of_memory_halves_the_batch_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = lively_decoder(), documents(TEXTS * 4)
    expected = likelihood(model, data).nll
    features = model.features

    def limited(batch: Batch) -> torch.Tensor:
        if batch.inputs.numel() > 100:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return features(batch)

    model.features = limited
    assert likelihood(model, data, batch_tokens=200).nll == pytest.approx(expected, rel=1e-12)
    assert "out of memory with" in capsys.readouterr().err


def test_out_of_memory_on_one_window_is_explained_and_other_failures_are_not_hidden() -> None:
    model = lively_decoder()

    def failing(message: str) -> Any:
        def features(_: Batch) -> torch.Tensor:
            raise RuntimeError(message)

        return features

    model.features = failing("CUDA error: out of memory")
    with pytest.raises(LavraError, match="single window of 16 tokens"):
        likelihood(model, documents(), batch_tokens=32)
    model.features = failing("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        likelihood(model, documents())


def test_the_model_is_left_as_it_was() -> None:
    model = lively_decoder(dropout=0.5).train()
    first = likelihood(model, documents()).nll
    assert model.training
    assert np.array_equal(first, likelihood(model, documents()).nll)


@given(lengths=some.lists(some.integers(1, 60), min_size=1, max_size=8), context=some.integers(1, 20), data=some.data())
def test_windows_score_every_token_once_with_enough_context(lengths: list[int], context: int, data: Any) -> None:
    stride = data.draw(some.integers(1, context))
    windows = plan_windows(np.array(lengths), context, stride)
    scored = [np.zeros(length, dtype=int) for length in lengths]
    for document, start, length, last in zip(
        windows.document, windows.start, windows.length, windows.scored, strict=True
    ):
        assert 1 <= last <= length <= context
        first = start + length - last
        scored[document][first : start + length] += 1
        assert first - start >= min(context - stride, first)
    assert all((once == 1).all() for once in scored)
    assert (np.diff(windows.length) <= 0).all()


def test_a_batch_shows_padding_and_context_to_the_model() -> None:
    data = documents(["abcdefg", "xy"])
    batch, owners = make_batch(data, plan_windows(data.lengths, 4, 2), slice(0, 4))
    end, a = 256, ord("a")
    assert owners.tolist() == [0, 0, 0, 1]
    assert batch.inputs.tolist()[0] == [end, a, a + 1, a + 2]
    assert batch.targets.tolist()[1] == [IGNORED, IGNORED, a + 4, a + 5]
    assert batch.inputs.tolist()[2] == [a + 3, a + 4, a + 5, a + 6]
    assert batch.inputs.tolist()[3] == [end, ord("x"), ord("y"), end]
    assert batch.targets.tolist()[2] == [IGNORED, IGNORED, a + 6, end]
    assert batch.targets.tolist()[3] == [ord("x"), ord("y"), end, IGNORED]
    assert batch.document_ids is not None
    assert batch.document_ids.tolist()[3] == [0, 0, 0, -1]
    assert batch.weight == 4 + 2 + 2 + 3


def test_measures_follow_their_definitions() -> None:
    data = documents(TEXTS * 2)
    total = likelihood(lively_decoder(), data).total
    texts = TEXTS * 2
    size = sum(len(text.encode()) for text in texts)
    assert (total.bytes, total.characters) == (size, sum(map(len, texts)))
    assert total.words == sum(len(text.split()) for text in texts)
    assert total.loss.value == pytest.approx(total.nll / (size + len(texts)))
    assert total.perplexity.value == pytest.approx(math.exp(total.loss.value))
    assert total.perplexity_per_word.value == pytest.approx(math.exp(total.nll / total.words))
    assert total.bits_per_byte.value == pytest.approx(total.nll / math.log(2) / size)
    assert total.bits_per_character.value == pytest.approx(total.nll / math.log(2) / total.characters)
    assert total.bits_per_word.value == pytest.approx(total.nll / math.log(2) / total.words)
    for estimate in (total.perplexity, total.bits_per_byte, total.bits_per_word):
        assert estimate.low < estimate.value < estimate.high  # pyright: ignore[reportOptionalOperand]


@pytest.mark.parametrize("asked", [1, 4])
def test_a_stopped_evaluation_measures_a_random_sample_and_says_so(asked: int) -> None:
    model, data = lively_decoder(), documents([f"text {number} " * (number % 7) for number in range(60)])
    answers = iter([False] * asked)
    found = likelihood(model, data, batch_tokens=64, seed=1, stop=lambda: next(answers, True))
    assert 0 < found.total.documents < 60
    assert found.drawn_from == 60
    assert found.to_json()["drawn_from_documents"] == 60
    assert f"measured on {found.total.documents} documents drawn at random from 60" in likelihood_table(found)
    numbers = [int(np.flatnonzero(data.starts == start)[0]) for start in found.per_document.starts]
    assert numbers == sorted(numbers)
    assert numbers != list(range(len(numbers)))
    assert found.nll == pytest.approx(likelihood(model, data).nll[numbers], rel=1e-12)
    again = iter([False] * asked)
    assert likelihood(model, data, batch_tokens=64, seed=1, stop=lambda: next(again, True)).total == found.total


def test_an_evaluation_that_is_not_stopped_measures_every_document() -> None:
    model, data = lively_decoder(), documents(TEXTS * 9)
    whole = likelihood(model, data)
    found = likelihood(model, data, batch_tokens=32, stop=lambda: False)
    assert found.nll == pytest.approx(whole.nll, rel=1e-12)
    assert found.drawn_from == whole.drawn_from == 0
    assert "drawn" not in likelihood_table(found)
    assert likelihood_table(found).splitlines()[0] == likelihood_table(whole).splitlines()[0]


def test_sources_add_up_and_equal_themselves_alone() -> None:
    model = lively_decoder()
    rows = [SourceDocument(text, "pt" if number % 2 else "en", "") for number, text in enumerate(TEXTS * 3)]
    found = likelihood(model, documents_of_rows(rows, TOKENIZER))
    assert list(found.sources) == ["en", "pt"]
    assert sum(part.nll for part in found.sources.values()) == pytest.approx(found.total.nll)
    alone = likelihood(model, documents_of_rows([row for row in rows if row.source == "pt"], TOKENIZER))
    assert alone.total.bits_per_byte.value == pytest.approx(found.sources["pt"].bits_per_byte.value)
    assert alone.total.bits_per_byte.low == pytest.approx(found.sources["pt"].bits_per_byte.low)


@pytest.mark.parametrize("keep_texts", [True, False])
def test_a_token_store_gives_the_same_as_its_texts(tmp_path: Path, keep_texts: bool) -> None:
    texts = [text[:400] for text in list(topics.topics.values())[:6]] + ["é preciso lavrar\n"]
    tokenizer = Tokenizer.train(texts, 300)
    with StoreWriter(tmp_path / "store", tokenizer, keep_texts=keep_texts) as writer:
        for number, (text, ids) in enumerate(zip(texts, tokenizer.encode_many(texts), strict=True)):
            writer.add("first" if number < 3 else "second", text, ids)
    rows = [SourceDocument(text, "first" if number < 3 else "second", "") for number, text in enumerate(texts)]
    expected, found = documents_of_rows(rows, tokenizer), documents_of_store(writer.opened(), tokenizer)
    for name in ("tokens", "starts", "ends", "bytes", "characters", "words", "source", "sources"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert list(found.texts(tokenizer)) == texts
    model = lively_decoder(vocabulary=tokenizer.vocabulary_size)
    assert np.array_equal(likelihood(model, found).nll, likelihood(model, expected).nll)
    assert unigram(found, tokenizer.vocabulary_size) == unigram(expected, tokenizer.vocabulary_size)
    with pytest.raises(InputError, match="another tokenizer"):
        documents_of_store(writer.opened(), TOKENIZER)


def test_a_sample_holds_whole_documents_and_is_seeded() -> None:
    data = documents([f"text number {number} " * (number % 7 + 1) for number in range(200)])
    part = data.sample(2000, seed=1)
    assert 2000 <= part.lengths.sum() < 2000 + data.lengths.max()
    assert (np.diff(part.starts) > 0).all()
    assert np.array_equal(part.starts, data.sample(2000, seed=1).starts)
    assert not np.array_equal(part.starts, data.sample(2000, seed=2).starts)
    assert data.sample(10**9) is data


def test_no_document_and_wrong_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="no document"):
        documents([])
    with pytest.raises(InputError, match="no document"):
        likelihood(lively_decoder(), documents().select([]))
    with pytest.raises(InputError, match="stride is 17"):
        likelihood(lively_decoder(), documents(), stride=17)
    with pytest.raises(InputError, match="reads 1 to 16 tokens"):
        likelihood(lively_decoder(), documents(), context=17)


def test_json_and_table_say_what_was_measured() -> None:
    texts = list(topics.topics.values())[:8]
    rows = [SourceDocument(text[:300], "docs" if number < 5 else "more", "") for number, text in enumerate(texts)]
    data = documents_of_rows(rows, TOKENIZER)
    result = likelihood(lively_decoder(), data)
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(written["bits_per_byte"]) == {"value", "low", "high"}
    assert written["sources"]["docs"]["documents"] == 5
    assert written["sources"]["more"]["perplexity"]["low"] is None
    table = likelihood_table(result, baselines(data, [row.text for row in rows], 257))
    for words in (
        "8 documents",
        "2.3 KiB",
        "context 16, stride 8",
        "bootstrap",
        "bits per byte",
        "xz -9",
        "docs",
        "more",
    ):
        assert words in table
    assert max(map(len, table.splitlines())) < 100


def test_whitespace_alone_has_no_bits_per_word_and_still_a_table() -> None:
    result = likelihood(lively_decoder(), documents(["  ", "\n"]))
    assert math.isnan(result.total.bits_per_word.value)
    json.dumps(result.to_json(), allow_nan=False)
    assert "too few documents for an interval" in likelihood_table(result)

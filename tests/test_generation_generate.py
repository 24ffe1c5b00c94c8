"""Generation equals its definition: recomputed without a cache, drawn from the exact distribution, grouped or not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from byte_level import ByteTokenizer, lively_decoder
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError, LavraError
from lavra.generation import generate as module
from lavra.generation.generate import generate, stream
from lavra.generation.scores import draw
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch

TOKENIZER: Any = ByteTokenizer()
PROMPTS = ["ab", "", "Era uma vez", "ab", "x", "não"]


def logits_of(model: Decoder, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        inputs = torch.tensor([ids])
        return model.head(model.features(Batch(inputs, inputs)))[0, -1]


def greedy_from_scratch(model: Decoder, prompt: str, longest: int) -> list[int]:
    """The definition, with the documented slide: a full context goes on from its last half."""
    ids = [256, *prompt.encode()]
    begin, made = 0, []
    while len(made) < longest:
        if len(ids) - begin > model.context:
            begin = len(ids) - model.context // 2
        token = int(logits_of(model, ids[begin:]).argmax())
        if token == 256:
            break
        ids.append(token)
        made.append(token)
    return made


@pytest.mark.parametrize("shape", [{}, {"positions": "learned"}, {"positions": "alibi"}, {"kv_heads": 1}])
def test_greedy_with_cache_equals_recomputing(shape: dict[str, Any]) -> None:
    model = lively_decoder(3, context=64, **shape)
    for found in generate(model, TOKENIZER, PROMPTS, GenerateOptions(greedy=True, max_new_tokens=20)):
        assert list(found.tokens) == greedy_from_scratch(model, found.prompt, 20)


def test_beyond_the_context_goes_on_from_its_last_half() -> None:
    model = lively_decoder(5, context=12)
    found = generate(model, TOKENIZER, PROMPTS, GenerateOptions(greedy=True, max_new_tokens=60))
    for one in found:
        assert list(one.tokens) == greedy_from_scratch(model, one.prompt, 60)
    assert max(len(one.tokens) for one in found) == 60


@pytest.mark.parametrize("context", [64, 12])
def test_grouping_and_order_change_no_text(context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_decoder(1, context=context)
    options = GenerateOptions(max_new_tokens=30, samples=3, seed=5, temperature=1.2)
    together = generate(model, TOKENIZER, PROMPTS, options)
    alone = [one for prompt in PROMPTS for one in generate(model, TOKENIZER, [prompt], options)]
    assert together == alone
    backwards = generate(model, TOKENIZER, PROMPTS[::-1], options)
    assert sorted(together, key=repr) == sorted(backwards, key=repr)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    assert generate(model, TOKENIZER, PROMPTS, options) == together


def test_seed_and_sample_number_choose_the_text() -> None:
    model = lively_decoder(1, context=64)
    options = GenerateOptions(max_new_tokens=20, samples=4, seed=1, temperature=1.0)
    texts = [one.tokens for one in generate(model, TOKENIZER, ["ab"], options)]
    assert len(set(texts)) == 4
    assert texts == [one.tokens for one in generate(model, TOKENIZER, ["ab"], options)]
    again = generate(model, TOKENIZER, ["ab"], GenerateOptions(max_new_tokens=20, seed=2, temperature=1.0))
    assert again[0].tokens not in texts


def test_draws_follow_the_model() -> None:
    model = lively_decoder(2, context=64)
    options = GenerateOptions(max_new_tokens=1, samples=4000, temperature=1.5, top_p=0.9)
    counts = Counter(one.tokens for one in generate(model, TOKENIZER, ["ab"], options))
    chance = (logits_of(model, [256, *b"ab"]) / 1.5).softmax(-1)
    order = chance.argsort(descending=True)
    nucleus = order[: int((chance[order].cumsum(0) < 0.9).sum()) + 1]
    shares = zip(nucleus.tolist(), (chance[nucleus] / chance[nucleus].sum()).tolist(), strict=True)
    expected = {() if token == 256 else (token,): share for token, share in shares}
    assert set(counts) <= set(expected)
    statistic = sum((counts[key] - 4000 * share) ** 2 / (4000 * share) for key, share in expected.items())
    freedom = len(expected) - 1
    assert freedom >= 5
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_draw_inverts_the_distribution_function() -> None:
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]], dtype=torch.float64).log()
    uniform = torch.tensor([0.0, 0.1999, 0.2001, 0.6999, 0.7001, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits.expand(6, 4), uniform).tolist() == [0, 0, 2, 2, 3, 3]
    ruled_out = torch.tensor([[float("-inf"), 0.0, float("-inf")]], dtype=torch.float64).expand(6, 3)
    assert draw(ruled_out, uniform).tolist() == [1] * 6


def test_near_zero_temperature_and_top_k_one_are_greedy() -> None:
    model = lively_decoder(3, context=64)
    greedy = generate(model, TOKENIZER, PROMPTS, GenerateOptions(greedy=True, max_new_tokens=12))
    for options in (
        GenerateOptions(temperature=1e-6, max_new_tokens=12),
        GenerateOptions(top_k=1, max_new_tokens=12),
        GenerateOptions(min_p=1.0, max_new_tokens=12),
    ):
        assert generate(model, TOKENIZER, PROMPTS, options) == greedy


def always(model: Decoder, scores: dict[int, float]) -> Decoder:
    """Make a model that gives these scores whatever it reads."""
    fixed = torch.full((257,), -50.0, dtype=torch.float64)
    for token, score in scores.items():
        fixed[token] = score
    model.head = lambda features: fixed.expand(*features.shape[:-1], 257)
    return model


def test_end_of_document_ends_and_min_new_tokens_delays_it() -> None:
    model = always(lively_decoder(), {256: 5.0, ord("a"): 3.0})
    ended = generate(model, TOKENIZER, ["x"], GenerateOptions(greedy=True))[0]
    assert (ended.text, ended.tokens, ended.reason) == ("", (), "end")
    delayed = generate(model, TOKENIZER, ["x"], GenerateOptions(greedy=True, min_new_tokens=3))[0]
    assert (delayed.text, delayed.reason) == ("aaa", "end")
    full = generate(model, TOKENIZER, ["x"], GenerateOptions(greedy=True, max_new_tokens=2, min_new_tokens=2))[0]
    assert (full.text, full.reason) == ("aa", "length")
    assert generate(model, TOKENIZER, ["x"], GenerateOptions(max_new_tokens=0))[0].reason == "length"


def test_stop_strings_across_tokens() -> None:
    model = lively_decoder(3, context=64)
    free = generate(model, TOKENIZER, ["ab"], GenerateOptions(max_new_tokens=40, top_k=20, seed=3))[0]
    stop = free.text[5:8]
    options = GenerateOptions(max_new_tokens=40, top_k=20, seed=3, stop=("never seen", stop))
    stopped = generate(model, TOKENIZER, ["ab"], options)[0]
    assert stopped.text == free.text[: free.text.find(stop)]
    assert stopped.reason == "stop"
    assert stopped.tokens == free.tokens[: len(stopped.tokens)]


def test_penalties_reach_the_choice() -> None:
    a, b, c = ord("a"), ord("b"), ord("c")
    model = always(lively_decoder(context=64), {a: 3.0, b: 2.5, c: 2.0})

    def text(prompt: str, **options: Any) -> str:
        return generate(model, TOKENIZER, [prompt], GenerateOptions(greedy=True, max_new_tokens=6, **options))[0].text

    assert text("x") == "aaaaaa"
    assert text("x", frequency_penalty=0.3) == "aababa"
    assert text("a", repetition_penalty=2.0) == "bcaaaa"
    assert text("a", frequency_penalty=0.1)[0] == "a"
    pairs = text("x", no_repeat_ngram=2)
    assert len({pairs[place : place + 2] for place in range(5)}) == 5


def test_rows_of_a_padded_vocabulary_are_never_drawn() -> None:
    model = lively_decoder(0)
    padded = model.spec.padded_vocabulary
    model.head = lambda features: torch.cat(
        [torch.zeros(*features.shape[:-1], 257), torch.full((*features.shape[:-1], padded - 257), 99.0)], -1
    )
    options = GenerateOptions(max_new_tokens=5, samples=20, temperature=1.0, top_p=1.0)
    for one in generate(model, TOKENIZER, ["ab"], options):
        assert all(token < 256 for token in one.tokens)


def test_streaming_gives_the_text_of_generate() -> None:
    model = lively_decoder(4, context=20)
    for seed in range(5):
        options = GenerateOptions(max_new_tokens=50, seed=seed, temperature=1.0, top_k=50, stop=("q",))
        pieces = list(stream(model, TOKENIZER, "Olá", options))
        assert "".join(pieces) == generate(model, TOKENIZER, ["Olá"], options)[0].text
        assert all(pieces)


def test_streaming_leaves_gradients_and_the_model_as_they_were() -> None:
    model = lively_decoder(4, dropout=0.1).train()
    pieces = stream(model, TOKENIZER, "", GenerateOptions(max_new_tokens=30, min_new_tokens=30))
    next(pieces)
    assert torch.is_grad_enabled()
    pieces.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert model.training


def test_out_of_memory_halves_the_group_and_changes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_decoder(1, context=64)
    options = GenerateOptions(max_new_tokens=10, samples=2)
    expected = generate(model, TOKENIZER, PROMPTS, options)
    step = model.step
    most = 6

    def limited(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(ids) > most:
            raise RuntimeError("CUDA out of memory")
        return step(ids, *rest)

    monkeypatch.setattr(model, "step", limited)
    monkeypatch.setattr(module, "release_memory", lambda: None)
    assert generate(model, TOKENIZER, PROMPTS, options) == expected
    most = 0
    with pytest.raises(LavraError, match="single continuation"):
        generate(model, TOKENIZER, ["ab"])


def test_bad_requests_are_explained() -> None:
    model = lively_decoder(context=8)
    with pytest.raises(InputError, match="has 8 tokens; this model reads 7 at most"):
        generate(model, TOKENIZER, ["ok", "12345678"])
    assert generate(model, TOKENIZER, ["1234567"], GenerateOptions(max_new_tokens=3, min_new_tokens=3))[0].tokens
    with pytest.raises(InputError, match="only one text can be streamed"):
        next(stream(model, TOKENIZER, "a", GenerateOptions(samples=2)))
    for wrong in (
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"samples": 0},
        {"max_new_tokens": 1, "min_new_tokens": 2},
        {"stop": ("",)},
        {"repetition_penalty": 0.0},
    ):
        name = list(wrong)[-1]
        with pytest.raises(InputError, match="--" + name.replace("_", "-")):
            GenerateOptions(**wrong)


def test_no_prompts_give_no_texts() -> None:
    assert generate(lively_decoder(), TOKENIZER, []) == []


def test_options_are_imported_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys; import lavra.config.generation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


def test_equal_prompts_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_decoder(1, context=64)
    read: list[int] = []
    step = model.step

    def watched(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(ids.numel())
        return step(ids, *rest)

    monkeypatch.setattr(model, "step", watched)
    generate(model, TOKENIZER, ["Era uma vez"], GenerateOptions(samples=8, max_new_tokens=2, min_new_tokens=2))
    assert read == [12, 8]
    assert np.sum(read) == 20

"""Scores of options equal the definition, however prompts are grouped, and tokens are divided as lm-eval does."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from byte_level import ByteTokenizer, lively_decoder
from lavra.core.errors import InputError, LavraError
from lavra.data.tokenizers.prompt_ids import encode_options, encode_pair
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.generation import scoring as module
from lavra.generation.scoring import calibrated, score, shares
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch
from transformers_models import HFModel, small_model

TOKENIZER: Any = ByteTokenizer()


@cache
def small_tokenizer() -> Tokenizer:
    from pydoc_data.topics import topics

    return Tokenizer.train(list(topics.values())[:20], 600)


def pair_of_lm_eval(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """`_encode_pair` of lm-evaluation-harness, as it is written there."""
    n_spaces = len(context) - len(context.rstrip())
    if n_spaces > 0:
        continuation = context[-n_spaces:] + continuation
        context = context[:-n_spaces]
    whole_enc = tokenizer.encode(context + continuation)
    context_enc = tokenizer.encode(context)
    return context_enc, whole_enc[len(context_enc) :]


@torch.no_grad()
def loglikelihood(model: Decoder, tokenizer: Any, context: str, continuation: str) -> tuple[float, bool]:
    """The formula of lm-evaluation-harness: one pass over context and continuation."""
    before, after = pair_of_lm_eval(tokenizer, context, continuation)
    whole = [tokenizer.end_of_document, *before, *after]
    inputs = torch.tensor([whole[-(model.context + 1) :][:-1]])
    logits = model.head(model.features(Batch(inputs, inputs)))[0, -len(after) :].log_softmax(-1)
    chosen = logits.gather(-1, torch.tensor(after)[:, None])
    return float(chosen.sum()), bool((logits.argmax(-1) == torch.tensor(after)).all())


@pytest.mark.parametrize("shape", [{}, {"positions": "learned"}, {"positions": "alibi", "kv_heads": 1}], ids=str)
def test_two_hundred_prompts_equal_lm_eval(shape: dict[str, Any]) -> None:
    from pydoc_data.topics import topics

    tokenizer = small_tokenizer()
    model = lively_decoder(3, context=96, vocabulary=tokenizer.vocabulary_size, **shape).float()
    text = "\n".join(topics.values())
    random = np.random.default_rng(0)
    starts, sizes = random.integers(0, len(text) - 300, 200), random.integers(0, 60, 200)
    prompts = [text[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    options = [
        [text[start + size :][: int(length)] for length in random.integers(1, 20, 1 + number % 4)]
        for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    options = [
        [option for option in mine if encode_options(tokenizer, prompt, [option]).from_prompt == 0]
        for prompt, mine in zip(prompts, options, strict=True)
    ]
    assert sum(map(len, options)) > 300
    found = score(model, tokenizer, prompts, options)
    for prompt, mine, scores in zip(prompts, options, found, strict=True):
        assert [one.option for one in scores] == mine
        for option, one in zip(mine, scores, strict=True):
            expected, greedy = loglikelihood(model, tokenizer, prompt, option)
            assert one.log_probability == pytest.approx(expected, abs=1e-4, rel=1e-5)
            assert one.greedy == greedy
            assert one.tokens == len(pair_of_lm_eval(tokenizer, prompt, option)[1])
            assert one.bytes == len(option.encode())


@given(prompt=some.text(max_size=20), spaces=some.sampled_from(["", " ", "\n ", "  "]), option=some.text(max_size=20))
def test_pairs_are_divided_as_in_lm_eval_and_spell_the_text(prompt: str, spaces: str, option: str) -> None:
    tokenizer = small_tokenizer()
    expected_before, expected_after = pair_of_lm_eval(tokenizer, prompt + spaces, option)
    before, after = encode_pair(tokenizer, prompt + spaces, option)
    found = encode_options(tokenizer, prompt + spaces, [option])
    assert before == expected_before
    assert tokenizer.decode([*before, *after]) == prompt + spaces + option
    if [*expected_before, *expected_after] == tokenizer.encode(prompt + spaces + option):
        assert after == expected_after
        assert (found.before, found.options, found.from_prompt) == (before, [after], 0)
    else:
        assert found.from_prompt > 0
        assert [*found.before, *found.options[0]] == tokenizer.encode(prompt + spaces + option)


WORD_PARTS = [
    ("A pa", ["lavra", "ra", "ssara"]),
    ("It is imp", ["ossible", "ort", "lement"]),
    ("statem", ["ent", "an"]),
]


@pytest.mark.parametrize(("prompt", "options"), WORD_PARTS)
def test_options_that_complete_a_word_differ_by_as_much_as_the_whole_texts(prompt: str, options: list[str]) -> None:
    tokenizer = small_tokenizer()
    model = lively_decoder(7, context=64, vocabulary=tokenizer.vocabulary_size)
    (scores,) = score(model, tokenizer, [prompt], [options])
    (texts,) = score(model, tokenizer, [""], [[prompt + option for option in options]])
    found = [one.log_probability - scores[0].log_probability for one in scores]
    assert found == pytest.approx([one.log_probability - texts[0].log_probability for one in texts], abs=1e-9)
    assert len(set(found)) == len(options)
    assert {one.from_prompt > 0 for one in scores} == {True}


def test_most_options_share_the_whole_prompt_and_those_that_complete_its_word_less() -> None:
    from pydoc_data.topics import topics

    tokenizer, text = small_tokenizer(), "\n".join(topics.values())
    random = np.random.default_rng(4)
    merged = 0
    for start, size in zip(random.integers(0, len(text) - 200, 200), random.integers(1, 40, 200), strict=True):
        prompt, rest = text[start : start + size], text[start + size : start + size + 60]
        options = [rest[:8], rest[:3], "zz"]
        found = encode_options(tokenizer, prompt, options)
        for option, ids in zip(options, found.options, strict=True):
            assert [*found.before, *ids] == tokenizer.encode(prompt + option)
        merged += found.from_prompt > 0
    assert 20 < merged < 180


def test_a_model_of_transformers_gives_the_same() -> None:
    inner = small_model("gpt2")
    found = score(HFModel(inner), TOKENIZER, ["ab", "", "xyz w "], [[" c", "d"], ["e"], ["long option", "o"]])
    for prompt, scores in zip(["ab", "", "xyz w "], found, strict=True):
        for one in scores:
            before, after = pair_of_lm_eval(TOKENIZER, prompt, one.option)
            ids = torch.tensor([[256, *before, *after]])
            with torch.no_grad():
                log = inner(ids).logits[0].log_softmax(-1)[-len(after) - 1 : -1]
            assert one.log_probability == pytest.approx(float(log.gather(-1, torch.tensor(after)[:, None]).sum()))


def test_grouping_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_decoder(1, context=64)
    prompts, options = ["ab", "", "Era uma vez", "ab"], [["c", " dd"], ["e"], [" não", "x", "yy"], ["c"]]

    def numbers(found: Any) -> list[float]:
        return [one.log_probability for scores in found for one in scores]

    together = score(model, TOKENIZER, prompts, options)
    for at_once in (1, 30):
        monkeypatch.setattr(module, "TOKENS_AT_ONCE", at_once)
        assert numbers(score(model, TOKENIZER, prompts, options)) == pytest.approx(numbers(together), rel=1e-12)
    backwards = score(model, TOKENIZER, prompts[::-1], options[::-1])
    assert numbers(backwards[::-1]) == pytest.approx(numbers(together), rel=1e-12)
    assert together[0][0].log_probability == pytest.approx(together[3][0].log_probability, rel=1e-12)


def test_a_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_decoder(1, context=64)
    read: list[tuple[int, ...]] = []
    step = model.step

    def watched(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(tuple(ids.shape))
        return step(ids, *rest)

    monkeypatch.setattr(model, "step", watched)
    score(model, TOKENIZER, ["Era uma vez"], [["a", "bc", "d"]])
    assert read == [(1, 12), (3, 1)]


def test_probabilities_of_all_one_token_options_sum_to_one() -> None:
    model = lively_decoder(1, context=64)
    (scores,) = score(model, TOKENIZER, ["ab"], [[chr(code) for code in range(128)]])
    assert 0 < sum(np.exp(one.log_probability) for one in scores) < 1
    assert sum(one.greedy for one in scores) <= 1


def test_values_to_compare_by() -> None:
    model = lively_decoder(1, context=64)
    (one,), (neutral,) = score(model, TOKENIZER, ["ab", ""], [["não"], ["não"]])
    assert one.value("sum") == one.log_probability
    assert one.value("token") == one.value("byte") == one.log_probability / 4
    assert one.value("pmi", neutral) == one.log_probability - neutral.log_probability
    with pytest.raises(ValueError, match="neutral"):
        one.value("pmi")


def test_long_prompts() -> None:
    model = lively_decoder(1, context=8)
    full = score(model, TOKENIZER, ["1234567"], [["8"]])[0][0]
    assert full.log_probability == pytest.approx(loglikelihood(model, TOKENIZER, "1234567", "8")[0])
    with pytest.raises(InputError, match="have 9 tokens; this model reads 8 at most"):
        score(model, TOKENIZER, ["1234567"], [["89"]])
    cut = score(model, TOKENIZER, ["123456789"], [["xy"]], long_prompt="window")[0][0]
    assert cut.log_probability == pytest.approx(loglikelihood(model, TOKENIZER, "123456789", "xy")[0])
    with pytest.raises(InputError, match="at most"):
        score(model, TOKENIZER, ["1"], [["123456789"]], long_prompt="window")


def test_bad_requests_are_explained() -> None:
    model = lively_decoder(1)
    with pytest.raises(InputError, match="the option '' after 'ab' has no tokens"):
        score(model, TOKENIZER, ["ab"], [["c", ""]])
    assert score(model, TOKENIZER, ["ab"], [[]]) == [[]]
    assert score(model, TOKENIZER, [], []) == []


def test_out_of_memory_makes_the_groups_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_decoder(1, context=64)
    prompts, options = ["ab", "cd", "e", "fgh"], [["c", "dd"]] * 4
    expected = score(model, TOKENIZER, prompts, options)
    step, most = model.step, 4

    def limited(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(ids) > most:
            raise RuntimeError("CUDA out of memory")
        return step(ids, *rest)

    monkeypatch.setattr(model, "step", limited)
    monkeypatch.setattr(module, "release_memory", lambda: None)
    found = score(model, TOKENIZER, prompts, options)
    for mine, theirs in zip(found, expected, strict=True):
        assert [one.log_probability for one in mine] == pytest.approx([one.log_probability for one in theirs])
    most = 0
    with pytest.raises(LavraError, match="options of one prompt"):
        score(model, TOKENIZER, prompts, options)


def test_calibration_makes_content_free_inputs_undecided() -> None:
    free = shares(np.array([[1.0, 0.0, -1.0], [1.2, 0.1, -1.3]]))
    assert calibrated(free.mean(0), free) == pytest.approx(np.full(3, 1 / 3))
    found = calibrated(np.array([0.6, 0.3, 0.1]), free)
    expected = np.array([0.6, 0.3, 0.1]) / free.mean(0)
    assert found == pytest.approx(expected / expected.sum())
    assert calibrated(np.array([0.6, 0.4]), np.array([[0.5, 0.5]])) == pytest.approx(np.array([0.6, 0.4]))

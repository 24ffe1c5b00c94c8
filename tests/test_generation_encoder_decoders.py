"""Encoder-decoders write what transformers writes, and a prompt's samples share its encoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from byte_level import ByteTokenizer
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.generation import generate as module
from lavra.generation.explaining import explain
from lavra.generation.generate import Generation, generate, stream
from lavra.generation.scoring import score
from lavra.models.hf.model import HFModel

END = 256
VOCABULARY = 259
PAD = 257
BEGIN = 258
PROMPTS = ["ab", "Era uma vez, há muito tempo", "xyz ", "não", "ab"]


class _Tokenizer(ByteTokenizer):
    vocabulary_size = VOCABULARY

    def decode(self, ids: Any) -> str:
        return super().decode([one for one in ids if one < END])


TOKENIZER: Any = _Tokenizer()
FAMILIES = ["t5", "t5-gated", "bart", "mbart"]


def encoder_decoder(family: str, seed: int = 0) -> HFModel:
    """A small random model in float64 whose distributions are far from uniform."""
    import transformers

    library: Any = transformers
    ids = {"vocab_size": VOCABULARY, "eos_token_id": END, "pad_token_id": PAD}
    if family.startswith("t5"):
        gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if family == "t5-gated" else {}
        config = library.T5Config(
            d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=PAD, **gated, **ids
        )
        inner = library.T5ForConditionalGeneration(config)
    else:
        shape = {
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": 64,
            "bos_token_id": BEGIN,
            "decoder_start_token_id": END,
            "forced_eos_token_id": None,
        }
        forced = {"forced_bos_token_id": BEGIN} if family == "bart" else {}
        config = (library.BartConfig if family == "bart" else library.MBartConfig)(**shape, **forced, **ids)
        inner = (library.BartForConditionalGeneration if family == "bart" else library.MBartForConditionalGeneration)(
            config
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in inner.named_parameters():
            spread, centre = (0.2, 1.0) if "norm" in name and name.endswith("weight") else (0.5, 0.0)
            parameter.normal_(centre, spread, generator=generator)
        inner.get_output_embeddings().weight[[PAD, BEGIN]] = 0.0
    return HFModel(inner.double().eval(), "encoder-decoder")


def reference(model: HFModel, prompts: list[str], **options: Any) -> list[tuple[list[int], float | None]]:
    """What transformers makes of the prompts: new tokens without a forced first one and the end, and scores."""
    rows = [[*prompt.encode(), END] for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    options["max_new_tokens"] += model.forced
    inner: Any = model.inner
    made = inner.generate(
        ids, attention_mask=mask, do_sample=False, return_dict_in_generate=True, output_scores=True, **options
    )
    scores = made.get("sequences_scores")
    found = []
    for number, row in enumerate(made.sequences[:, len(model.decoder_start_ids) :].tolist()):
        tokens = row[: row.index(END)] if END in row else row
        found.append((tokens, None if scores is None else float(scores[number])))
    return found


def assert_same(found: list[Generation], expected: list[tuple[list[int], float | None]]) -> None:
    assert [list(one.tokens) for one in found] == [tokens for tokens, _ in expected]
    for one, (_, expected_score) in zip(found, expected, strict=True):
        assert (one.score is None) == (expected_score is None)
        assert expected_score is None or one.score == pytest.approx(expected_score, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder_decoder(family)
    assert model.pads
    expected = reference(model, PROMPTS, max_new_tokens=20)
    options = GenerateOptions(greedy=True, max_new_tokens=20)
    assert_same(generate(model, TOKENIZER, PROMPTS, options), expected)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)  # so that rows leave, and others take their places
    assert_same(generate(model, TOKENIZER, PROMPTS, options), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 0.0), (3, 2.0)])
def test_beams(family: str, beams: int, penalty: float) -> None:
    model = encoder_decoder(family, seed=beams)
    expected = reference(
        model, PROMPTS, max_new_tokens=10, num_beams=beams, length_penalty=penalty, num_return_sequences=beams
    )
    options = GenerateOptions(max_new_tokens=10, beams=beams, length_penalty=penalty, samples=beams)
    assert_same(generate(model, TOKENIZER, PROMPTS, options), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_log_probabilities_of_the_model(family: str) -> None:
    model = encoder_decoder(family)
    options = [["x", "yes it is", "não"], ["no"], ["a", "b"]]
    found = score(model, TOKENIZER, PROMPTS[:3], options)
    inner: Any = model.inner
    for prompt, mine, scores in zip(PROMPTS, options, found, strict=False):
        for option, one in zip(mine, scores, strict=True):
            begun = [*model.decoder_start_ids, *option.encode()]
            logits = inner(
                input_ids=torch.tensor([[*prompt.encode(), END]]), decoder_input_ids=torch.tensor([begun[:-1]])
            ).logits[0, len(model.decoder_start_ids) - 1 :]
            log = logits.log_softmax(-1).gather(1, torch.tensor(list(option.encode()))[:, None])
            assert one.log_probability == pytest.approx(float(log.detach().sum()), rel=1e-6, abs=1e-6)


def test_the_encoder_reads_each_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder_decoder("t5")
    assert model.pads  # measured here, so that it is not counted
    encoded: list[int] = []
    model.inner.get_encoder().register_forward_hook(lambda _module, _given, made: encoded.append(len(made[0])))
    options = GenerateOptions(max_new_tokens=8, samples=5, seed=3)
    made = generate(model, TOKENIZER, PROMPTS[:4], options)
    assert sum(encoded) == 4
    assert len({one.text for one in made}) > 4
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    assert generate(model, TOKENIZER, PROMPTS[:4], options) == made
    alone = [generate(model, TOKENIZER, [prompt], options) for prompt in PROMPTS[:4]]
    assert [one for ones in alone for one in ones] == made


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_every_strategy_writes(family: str) -> None:
    model = encoder_decoder(family, seed=1)
    strategies: tuple[dict[str, Any], ...] = (
        {"beams": 4, "beam_groups": 2, "samples": 4},
        {"contrastive": 0.6, "top_k": 4},
        {"greedy": True, "repetition_penalty": 1.4, "no_repeat_ngram": 2},
        {"words": ("no",), "temperature": 1.0},
        {"choices": ("yes", "no"), "beams": 3},
        {"typical_p": 0.8, "min_p": 0.05, "samples": 2},
    )
    for how in strategies:
        options = GenerateOptions(max_new_tokens=6, **how)
        assert any(one.text for one in generate(model, TOKENIZER, PROMPTS[:3], options))
    greedy = GenerateOptions(greedy=True, max_new_tokens=12)
    (alone,) = generate(model, TOKENIZER, PROMPTS[:1], greedy)
    neutral = GenerateOptions(contrastive=0.0, top_k=4, max_new_tokens=12)
    assert generate(model, TOKENIZER, PROMPTS[:1], neutral)[0].tokens == alone.tokens
    assert "".join(stream(model, TOKENIZER, PROMPTS[0], greedy)) == alone.text
    assert tuple(step.chosen for step in explain(model, TOKENIZER, PROMPTS[0], greedy)) == alone.tokens
    stopped = GenerateOptions(greedy=True, max_new_tokens=12, stop=(alone.text[3:5],))
    assert generate(model, TOKENIZER, PROMPTS[:1], stopped)[0].text == alone.text[: alone.text.index(alone.text[3:5])]


def test_prompts_that_cannot_be_read() -> None:
    model = encoder_decoder("bart")
    with pytest.raises(InputError, match="the prompt is empty"):
        generate(model, TOKENIZER, ["ab", " "])
    with pytest.raises(InputError, match="has 71 tokens; this model reads 64 at most"):
        generate(model, TOKENIZER, ["a" * 70])
    options = GenerateOptions(greedy=True, max_new_tokens=4, long_prompt="window")
    (windowed,) = generate(model, TOKENIZER, ["a" * 70], options)
    assert windowed.tokens == generate(model, TOKENIZER, ["a" * 63], options)[0].tokens

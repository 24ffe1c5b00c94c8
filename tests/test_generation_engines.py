"""The CTranslate2 engine writes what torch writes, draws from the same distribution, and says what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

pytest.importorskip("ctranslate2")

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError, LavraError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.generation.engines import converting
from lavra.generation.engines.converting import Convertible, conversion_of, why_not_convertible
from lavra.generation.engines.ctranslate import CTranslate2Engine
from lavra.generation.engines.engine import TorchEngine, generate_with
from lavra.generation.scores import reshape
from lavra.models.hf.model import HFModel
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec
from test_generation_encoder_decoders import encoder_decoder

PROMPTS = ["ab", "Era uma vez, há muito tempo", "xyz ", "não", "ab"]
END = "<|endoftext|>"


def byte_tokenizer(*more: str) -> Tokenizer:
    """Bytes are the ids 0 to 255, the end of a document is 256."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain = {character: number for number, character in enumerate(_characters())}
    assert set(plain) == set(alphabet)
    inner = Library(models.BPE({**plain, END: 256, **{name: 257 + n for n, name in enumerate(more)}}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END, *more])
    return Tokenizer(inner)


def _characters() -> list[str]:
    """GPT-2's character for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [number for number in range(256) if number not in shown]
    table = {number: chr(number) for number in shown} | {number: chr(256 + n) for n, number in enumerate(others)}
    return [table[number] for number in range(256)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def decoder(preset: str, **fields: Any) -> Decoder:
    spec = replace(PRESETS[preset], **{"vocabulary": 257, "context": 48, "depth": 2, "width": 16, "heads": 2, **fields})
    model = build_decoder(spec)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, centre, 0.4, generator=generator)
    return model.eval()


def sources() -> dict[str, Convertible]:
    llama = {"kv_heads": 1, "mlp_width": 24}
    made: dict[str, Any] = {
        "gpt2": decoder("gpt2-124m"),
        "opt": decoder("opt-125m"),
        "neox": decoder("pythia-70m"),
        "llama": decoder("tinyllama-1.1b", **llama),
    }
    made |= {name: in_float32(encoder_decoder(name, seed=4)) for name in ("t5", "t5-gated", "bart", "mbart")}
    return {
        name: Convertible(model, byte_tokenizer(*(() if isinstance(model, Decoder) else ("<pad>", "<s>"))))
        for name, model in made.items()
    }


def in_float32(model: HFModel) -> HFModel:
    model.inner.float()
    return model


SOURCES = sources()


@pytest.mark.parametrize("name", list(SOURCES))
def test_greedy_equals_torch_in_float32(name: str) -> None:
    source = SOURCES[name]
    ours, theirs = TorchEngine(source.model, source.tokenizer), CTranslate2Engine(source, "fp32")
    options = GenerateOptions(greedy=True, max_new_tokens=16, samples=2)
    expected = generate_with(ours, PROMPTS, options)
    assert generate_with(theirs, PROMPTS, options) == expected
    assert "".join(theirs.stream(PROMPTS[1], GenerateOptions(greedy=True, max_new_tokens=16))) == expected[2].text
    stop = expected[2].text[2:4] or "x"
    stopped = GenerateOptions(greedy=True, max_new_tokens=16, stop=(stop,), min_new_tokens=3)
    assert generate_with(theirs, PROMPTS, stopped) == generate_with(ours, PROMPTS, stopped)


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart"])
@pytest.mark.parametrize(("beams", "penalty"), [(3, 1.0), (4, 0.0)])
def test_beams(name: str, beams: int, penalty: float) -> None:
    source = SOURCES[name]
    options = GenerateOptions(beams=beams, samples=beams, max_new_tokens=6, length_penalty=penalty)
    expected = generate_with(TorchEngine(source.model, source.tokenizer), PROMPTS[:3], options)
    found = generate_with(CTranslate2Engine(source, "fp32"), PROMPTS[:3], options)
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4)
        if one.tokens != other.tokens:  # two texts that are equally likely may change places, the likeliest not
            assert one.sample > 0


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_penalties_of_what_a_decoder_wrote(name: str) -> None:
    source = SOURCES[name]
    options = GenerateOptions(greedy=True, max_new_tokens=12, no_repeat_ngram=2)
    expected = generate_with(TorchEngine(source.model, source.tokenizer), PROMPTS, options)
    assert generate_with(CTranslate2Engine(source, "fp32"), PROMPTS, options) == expected


@pytest.mark.parametrize("how", [{"temperature": 0.7, "top_p": 0.9}, {"temperature": 1.5, "top_k": 8, "top_p": 0.9}])
def test_sampling_draws_from_the_distribution_of_torch(how: dict[str, Any]) -> None:
    source = SOURCES["gpt2"]
    options = GenerateOptions(max_new_tokens=1, min_new_tokens=1, samples=1000, **how)
    engine = CTranslate2Engine(source, "fp32")
    made = generate_with(engine, ["Era", "uma", "vez"], options)
    assert generate_with(engine, ["Era", "uma", "vez"], options) == made
    for number, prompt in enumerate(["Era", "uma", "vez"]):
        ids = list(prompt.encode())  # this tokenizer, like GPT-2's, puts nothing before a text
        logits = source.model.head(source.model(torch.tensor([ids])))[:, -1].double()
        logits[:, 256] = -torch.inf
        expected = reshape(logits, options).softmax(-1)[0]
        drawn = [one.tokens[0] for one in made[1000 * number : 1000 * number + 1000]]
        counts = torch.bincount(torch.tensor(drawn), minlength=257).double()
        likely = expected > 0
        assert not counts[~likely].any()
        # Pearson's statistic has a mean of (number of outcomes - 1) and a variance of twice that.
        freedom = int(likely.sum()) - 1
        statistic = ((counts - 1000 * expected)[likely].square() / (1000 * expected[likely])).sum()
        assert freedom > 1
        assert float(statistic) < freedom + 5 * (2 * freedom) ** 0.5


def test_what_the_engine_cannot_do_is_refused() -> None:
    source = SOURCES["gpt2"]
    engine = CTranslate2Engine(source, "int8")
    for how, words in (
        ({"min_p": 0.1, "choices": ("a", "b")}, "it has no --min-p, --choices"),
        ({"repetition_penalty": 1.2}, "it has no --repetition-penalty"),
        ({"max_new_tokens": 47}, "outgrow the context of 48"),
    ):
        options = GenerateOptions(**{"max_new_tokens": 4, **how})
        with pytest.raises(InputError, match=words):
            generate_with(engine, ["ab"], options)
    with pytest.raises(InputError, match="cannot compute in fp16 on this cpu"):
        CTranslate2Engine(source, "fp16")


def test_models_that_cannot_be_converted() -> None:
    spec = DecoderSpec(vocabulary=257, context=16, depth=1, width=16, heads=2)
    reason = why_not_convertible(Convertible(build_decoder(spec), byte_tokenizer()))
    assert reason == "CTranslate2 has no NanoChat models"
    with pytest.raises(InputError, match="cannot be converted: CTranslate2 has no NanoChat"):
        CTranslate2Engine(Convertible(build_decoder(spec), byte_tokenizer()), "fp32")


def test_a_conversion_is_kept_by_content_and_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Convertible(decoder("gpt2-124m", depth=1), byte_tokenizer())
    folder = conversion_of(source)
    made = (folder / "model.bin").stat().st_mtime_ns
    assert conversion_of(source) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == made
    with torch.no_grad():
        source.model.final_norm.bias += 0.1
    monkeypatch.setattr(converting, "_TOLERANCE", -1.0)
    with pytest.raises(LavraError, match="is another model"):
        conversion_of(source)

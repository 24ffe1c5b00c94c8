"""Which engine a request gets, and models exported for CTranslate2."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ctranslate2")

from lavra.cli.main import main
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.core.progress import set_quiet
from lavra.generation.engines.converting import Convertible
from lavra.generation.engines.ctranslate import compute_type
from lavra.generation.engines.engine import generate_with
from lavra.models.families.exporting import export_decoder
from lavra.workflows.export import ctranslate as exporting
from lavra.workflows.generation.engines import MANY_TEXTS, open_engine
from lavra.workflows.models.open import OpenModel, open_model
from test_generation_encoder_decoders import encoder_decoder
from test_generation_engines import byte_tokenizer, decoder, in_float32

GREEDY = GenerateOptions(greedy=True, max_new_tokens=8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    set_quiet(False)


def opened(**fields: Any) -> OpenModel:
    return OpenModel(decoder("gpt2-124m", **fields), byte_tokenizer(), "here", None, "gpt2")


def chosen(prompts: list[str], options: GenerateOptions, **how: Any) -> str:
    return open_engine(opened(), prompts, options, device="cpu", **how).description


def test_auto_takes_ctranslate2_for_many_texts_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    many = ["ab"] * MANY_TEXTS
    assert chosen(many[1:], GREEDY) == "torch, fp32"
    assert chosen(many, GREEDY) == "ctranslate2, fp32"
    assert "engine: ctranslate2, fp32" in capsys.readouterr().err
    assert chosen(many[:1], GREEDY) == "ctranslate2, fp32"  # converted now
    sampling = GenerateOptions(max_new_tokens=8, samples=MANY_TEXTS)
    assert chosen(["ab"], sampling) == "ctranslate2, int8"
    assert "--engine torch for each prompt by itself" in capsys.readouterr().err
    assert chosen(many, GREEDY, engine="torch") == "torch, fp32"
    assert chosen(many, GREEDY, engine="torch", precision="int8") == "torch, int8"


def test_auto_does_without_ctranslate2_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert chosen(["ab"] * MANY_TEXTS, GREEDY) == "torch, fp32"
    assert chosen(["ab"], GenerateOptions(max_new_tokens=8)).startswith("torch, ")
    with pytest.raises((InputError, ModuleNotFoundError), match="ctranslate2"):
        chosen(["ab"], GREEDY, engine="ctranslate2")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"min_p": 0.2}, "it has no --min-p"),
        ({"contrastive": 0.4, "top_k": 4}, "it has no --contrastive"),
        ({"regex": "a+"}, "it has no --regex"),
        ({"max_new_tokens": 100}, "outgrow the context of 48"),
    ],
)
def test_what_ctranslate2_cannot_do_goes_to_torch_or_is_refused(how: dict[str, Any], words: str) -> None:
    options = GenerateOptions(**{"max_new_tokens": 8, **how})
    assert chosen(["ab"] * MANY_TEXTS, options, precision="fp32") == "torch, fp32"
    with pytest.raises(InputError, match=words):
        chosen(["ab"], options, engine="ctranslate2")


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"'llama.cpp' is not an engine"):
        chosen(["ab"], GREEDY, engine="llama.cpp")
    with pytest.raises(InputError, match="'int4' is not a precision"):
        chosen(["ab"], GREEDY, precision="int4")
    if compute_type("bf16") is None:
        with pytest.raises(InputError, match="it has no bf16 on this cpu"):
            chosen(["ab"], GREEDY, engine="ctranslate2", precision="bf16")
    shape = {"positions": "rope", "norm": "rmsnorm", "activation": "relu2"}
    model = OpenModel(decoder("gpt2-124m", **shape), byte_tokenizer(), "here", None)
    with pytest.raises(InputError, match="ctranslate2 cannot write this"):
        open_engine(model, ["ab"], GREEDY, engine="ctranslate2")


def test_both_engines_write_the_same_for_an_encoder_decoder() -> None:
    model = in_float32(encoder_decoder("t5", seed=4))
    source = OpenModel(model, byte_tokenizer("<pad>", "<s>"), "here", None, "t5")
    texts = ["Era uma vez", "ab"]
    made = {
        name: generate_with(open_engine(source, texts, GREEDY, engine=name, precision="fp32"), texts, GREEDY)
        for name in ("torch", "ctranslate2")
    }
    assert made["torch"] == made["ctranslate2"]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_an_export_opens_with_plain_ctranslate2(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    tokenizer = byte_tokenizer("<pad>", "<s>")
    folder = tmp_path / "model"
    if family == "gpt2":
        export_decoder(folder, decoder("gpt2-124m", vocabulary=259), {"eos_token_id": 256, "bos_token_id": 256})
    else:
        in_float32(encoder_decoder("t5", seed=4)).inner.save_pretrained(folder)
    tokenizer.save(folder)
    out = tmp_path / "out"
    assert main(["export", str(folder), "--format", "ct2", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["quantization"] == "int8"
    assert said["log_probability_difference"] < 0.3
    names = [tokenizer.inner.id_to_token(one) for one in b"Era uma vez"]
    if family == "gpt2":
        made = ctranslate2.Generator(str(out)).generate_batch([names], max_length=20)[0].sequences_ids[0]
        assert made[: len(names)] == list(b"Era uma vez")
    else:
        made = ctranslate2.Translator(str(out)).translate_batch([[*names, "<|endoftext|>"]], beam_size=1)
        assert made[0].hypotheses
    assert (out / "tokenizer.json").exists()
    again = ["export", str(folder), "--format", "ct2", "--out", str(out)]
    assert main([*again, "--json"]) == 0  # the same export is there, whole
    told = capsys.readouterr()
    assert "holds this export already" in told.err
    assert json.loads(told.out) == said
    assert main([*again, "--quantization", "float32"]) == 2
    opened_again = open_model(str(folder), "cpu")
    assert Convertible(opened_again.model, opened_again.tokenizer).is_sequence_to_sequence == (family == "t5")


def test_a_shape_that_ctranslate2_lacks_is_refused_with_what_to_export_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"positions": "rope", "norm": "rmsnorm", "activation": "relu2"}
    model = OpenModel(decoder("gpt2-124m", **shape), byte_tokenizer(), "here", None)
    monkeypatch.setattr(exporting, "open_language_model", lambda *_: model)
    with pytest.raises(InputError, match="cannot be written for ctranslate2") as refused:
        exporting.export_ctranslate2("here", tmp_path / "out")
    assert "--format hf" in str(refused.value)
    assert "--engine" not in str(refused.value)
    assert not (tmp_path / "out").exists()

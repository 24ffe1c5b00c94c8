"""Decoders that are used as transformers has them write what transformers writes; others are refused with words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from byte_level import ByteTokenizer
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.generation import generate as module
from lavra.generation.generate import generate
from lavra.models.hf.model import HFModel

END = 256
VOCABULARY = 257
PROMPTS = ["ab", "Era uma vez, há muito", "xyz ", "não"]
TOKENIZER: Any = ByteTokenizer()
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
DECODERS: dict[str, dict[str, Any]] = {
    "GPTJ": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "rotary_dim": 4},
    "Phi": {**SHAPE, "intermediate_size": 24},
    "Gemma": {**SHAPE, "intermediate_size": 24, "head_dim": 8, "num_key_value_heads": 1},
    "Falcon": {**SHAPE, "alibi": True},
    "GPTBigCode": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


def hf_model(name: str, config: dict[str, Any], kind: Any = "decoder", ending: str = "ForCausalLM") -> HFModel:
    import transformers

    library: Any = transformers
    torch.manual_seed(0)
    inner = getattr(library, name + ending)(getattr(library, name + "Config")(**{**COMMON, **config})).eval()
    with torch.no_grad():
        for key, parameter in inner.named_parameters():
            if "norm" not in key and "ln_" not in key:
                parameter.normal_(0.0, 0.4)
    return HFModel(inner.double(), kind)


@pytest.mark.parametrize("name", list(DECODERS))
def test_greedy_and_beams(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hf_model(name, DECODERS[name])
    inner: Any = model.inner
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 6)
    for beams in (1, 2):
        expected = []
        for prompt in PROMPTS:
            ids = torch.tensor([[END, *prompt.encode()]])
            mask = torch.ones_like(ids)
            made = inner.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=12, num_beams=beams)[0]
            new = made[ids.shape[1] :].tolist()
            expected.append(tuple(new[: new.index(END)] if END in new else new))
        options = GenerateOptions(max_new_tokens=12, greedy=beams == 1, beams=beams)
        assert [one.tokens for one in generate(model, TOKENIZER, PROMPTS, options)] == expected


def test_a_model_that_cannot_be_told_positions_reads_rows_of_one_length_together() -> None:
    model = hf_model("GPTJ", DECODERS["GPTJ"])
    options = GenerateOptions(greedy=True, max_new_tokens=8)
    expected = generate(model, TOKENIZER, PROMPTS, options)
    assert model.pads
    model.__dict__["pads"] = False
    lengths: set[int] = set()
    model.inner.register_forward_pre_hook(
        lambda _module, _given, named: lengths.add(int(named["attention_mask"].sum(1).unique().numel())),
        with_kwargs=True,
    )
    assert generate(model, TOKENIZER, PROMPTS, options) == expected
    assert lengths == {1}


def test_models_that_write_no_text_are_refused() -> None:
    encoder = hf_model("Bert", {**SHAPE, "intermediate_size": 24}, "encoder", "ForMaskedLM")
    with pytest.raises(InputError, match="BertForMaskedLM is an encoder"):
        generate(encoder, TOKENIZER, ["ab"])

"""Recurrent models write what transformers writes: by its cache of states, or by reading all again for each token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from byte_level import ByteTokenizer
from lavra.config.generation import GenerateOptions
from lavra.generation.generate import generate
from lavra.models.hf import states
from lavra.models.hf.model import HFModel
from test_generation_wrapped import END, PROMPTS, SHAPE, hf_model

TOKENIZER: Any = ByteTokenizer()
STATE = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4}
FALCON_H1 = {
    "mamba_d_ssm": 16,
    "mamba_n_heads": 2,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
MODELS: dict[str, dict[str, Any]] = {
    "Mamba": STATE,
    "Lfm2": {**SHAPE, "layer_types": ["conv", "full_attention"], "num_key_value_heads": 1, "block_ff_dim": 24},
    "FalconH1": {**SHAPE, **FALCON_H1, "intermediate_size": 24, "num_key_value_heads": 1},
    "RecurrentGemma": {
        **SHAPE,
        "num_hidden_layers": 3,
        "intermediate_size": 48,
        "num_key_value_heads": 1,
        "lru_width": 16,
    },
    "Rwkv": {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16, "context_length": 64},
}


def recurrent(name: str) -> HFModel:
    model = hf_model(name, {"tie_word_embeddings": False, **MODELS[name]})
    assert not model.pads
    return model


def of_transformers(model: HFModel, prompt: str, beams: int = 1) -> tuple[int, ...]:
    inner: Any = model.inner
    ids = torch.tensor([[END, *prompt.encode()]])
    how = {"do_sample": False, "max_new_tokens": 10, "num_beams": beams}
    new = inner.generate(ids, attention_mask=torch.ones_like(ids), **how)[0][ids.shape[1] :].tolist()
    return tuple(new[: new.index(END)] if END in new else new)


@pytest.mark.parametrize("name", list(MODELS))
def test_greedy_text_is_that_of_transformers(name: str):
    model = recurrent(name)
    made = generate(model, TOKENIZER, PROMPTS, GenerateOptions(greedy=True, max_new_tokens=10))
    assert [one.tokens for one in made] == [of_transformers(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("how", [{"samples": 3}, {"beams": 3}, {"contrastive": 0.3, "top_k": 3}])
def test_a_state_serves_every_strategy_as_reading_all_again_does(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    options = GenerateOptions(max_new_tokens=10, **how)
    model = recurrent("Mamba")
    assert model._cache_argument == "cache_params"
    made = generate(model, TOKENIZER, PROMPTS, options)
    monkeypatch.setattr(states, "_ARGUMENTS", ())
    again = recurrent("Mamba")
    assert again._cache_argument is None
    assert [one.tokens for one in generate(again, TOKENIZER, PROMPTS, options)] == [one.tokens for one in made]


def test_a_cache_that_changes_what_the_model_reads_is_not_used(capsys: pytest.CaptureFixture[str]):
    model = recurrent("Mamba")
    model.inner.register_forward_pre_hook(
        lambda _module, given, named: (given, {**named, "cache_params": None}), with_kwargs=True
    )
    made = generate(model, TOKENIZER, PROMPTS[:2], GenerateOptions(greedy=True, max_new_tokens=6))
    assert model._cache_argument is None
    assert "each token reads the whole text" in capsys.readouterr().err
    plain = recurrent("Mamba")
    assert [one.tokens for one in made] == [of_transformers(plain, prompt)[:6] for prompt in PROMPTS[:2]]

"""Families of `transformers` by random weights: all train, finish, evaluate, export and write as they do there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

import lavra
from lavra.config.generation import GenerateOptions
from lavra.generation.generate import generate
from lavra.workflows.export.export import export
from lavra.workflows.models.open import open_model
from little_tokenizers import bart_like
from test_workflows_carried import QUICK

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("reference_in_this_process")]

VOCABULARY = 608
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 600,
    "eos_token_id": 601,
    "pad_token_id": 601,
    "decoder_start_token_id": 601,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "embedding_size": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "d_kv": 8,
    "hidden_dim": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_seq_len": 64,
    "word_embed_proj_dim": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "state_size": 8,
    "rotary_dim": 4,
}
"""Values for whichever of these names a family's configuration has."""

_DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_FALCON_H1 = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
_MAMBA2 = {"num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1, "chunk_size": 16}
_OWN: dict[str, dict[str, Any]] = {
    "mamba2": _MAMBA2,
    "falcon_h1": _FALCON_H1,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"], "num_key_value_heads": 4},
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"], "num_key_value_heads": 4},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    "bamba": {**_FALCON_H1, "mamba_d_head": 16, "attn_layer_indices": [1]},
    "granitemoehybrid": {**_FALCON_H1, "mamba_d_head": 16, "layer_types": ["mamba", "attention"]},
    "xlstm": {"hidden_size": 256, "embedding_dim": 256},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "mamba_d_state": 8,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "mamba_d_state": 8,
        "mamba_headdim": 16,
        "n_mamba_heads": 4,
        "mamba_ngroups": 1,
        "num_mem_blocks": 1,
        "chunk_size": 16,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "qwen3_5_moe_text": _DELTA,
    "zaya": {"num_experts_per_tok": 1},
    "qwen3_next": _DELTA,
    "qwen3_5_text": _DELTA,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "xglm": {"attention_heads": 4},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
}

DECODERS = [
    "gpt2",
    "opt",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gpt_neox",
    "bloom",
    "nanochat",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "falcon",
    "gptj",
    "gpt_neo",
    "codegen",
    "gpt_bigcode",
    "starcoder2",
    "stablelm",
    "olmo",
    "olmo2",
    "cohere",
    "cohere2",
    "granite",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "smollm3",
    "glm",
    "nemotron",
    "mpt",
    "xglm",
]
RECURRENT = [
    "mamba",
    "mamba2",
    "falcon_h1",
    "lfm2",
    "qwen3_next",
    "qwen3_5_text",
    "falcon_mamba",
    "jamba",
    "bamba",
    "granitemoehybrid",
    "nemotron_h",
    "olmo_hybrid",
    "kimi_linear",
    "bailing_hybrid",
    "minimax",
    "lfm3",
    "recurrent_gemma",
    "rwkv",
    "xlstm",
    "zamba",
    "zamba2",
    "lfm2_moe",
    "qwen3_5_moe_text",
    "zaya",
]
"""Decoders that keep a state of fixed size, in some layers or in all."""
OTHERS = [
    "deepseek_v4",
    "flint",
    "afmoe",
    "apertus",
    "arcee",
    "bitnet",
    "biogpt",
    "ctrl",
    "cwm",
    "diffllama",
    "doge",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone4",
    "exaone_moe",
    "flex_olmo",
    "glm4",
    "glm4_moe",
    "gpt-sw3",
    "gpt_neox_japanese",
    "gpt_oss",
    "granite_swa",
    "granitemoe",
    "granitemoeshared",
    "helium",
    "hrm_text",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "hyperclovax",
    "internlm3",
    "jais2",
    "jetmoe",
    "kolibri1",
    "laguna",
    "llama4_text",
    "mellum",
    "mimo_v2_flash",
    "minimax_m2",
    "ministral",
    "ministral3",
    "modernbert-decoder",
    "moshi",
    "olmo3",
    "olmoe",
    "openai-gpt",
    "persimmon",
    "phimoe",
    "seed_oss",
    "solar_open",
    "vaultgemma",
    "inkling_text",
    "hy_v3",
    "iquestcoder",
    "cohere2_moe",
]
"""Families of which only the text that they write is compared."""
ENCODERS = ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"]
ENCODER_DECODERS = ["t5", "bart", "mbart"]


def folder_of(family: str, kind: str, folder: Path) -> Path:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(0)
    classes = {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModelForMaskedLM,
        "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    }
    configuration = CONFIG_MAPPING[family]
    usual = configuration()
    computed = {name for name in SMALL if isinstance(getattr(configuration, name, None), property)}
    fields = {name: value for name, value in SMALL.items() if hasattr(usual, name) and name not in computed}
    classes[kind].from_config(configuration(**{**fields, **_OWN.get(family, {})})).save_pretrained(folder)
    tokenizer = bart_like()
    tokenizer.save(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "mask_token": "<mask>", "bos_token": "<s>"}))
    return folder


@pytest.mark.parametrize("family", [*DECODERS, *RECURRENT, *OTHERS])
def test_a_family_writes_what_transformers_writes(family: str, tmp_path: Path):
    import transformers

    folder = folder_of(family, "decoder", tmp_path)
    opened = open_model(str(folder), "cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer, prompts = opened.tokenizer, ["A linguagem é", "um"]
    outside = list(range(tokenizer.vocabulary_size, VOCABULARY)) or None
    made = generate(opened.model, tokenizer, prompts, GenerateOptions(greedy=True, max_new_tokens=12))
    for prompt, one in zip(prompts, made, strict=True):
        ids = torch.tensor([[*tokenizer.text_bos, *tokenizer.encode(prompt)]])
        how = {"eos_token_id": list(tokenizer.end_ids), "suppress_tokens": outside, "max_new_tokens": 12}
        new = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **how)[0][
            ids.shape[1] :
        ].tolist()
        end = next((place for place, token in enumerate(new) if token in tokenizer.end_ids), len(new))
        assert one.tokens == tuple(new[:end])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    texts = [{"text": topics[name][:1500]} for name in sorted(topics)[:16]]
    pairs = [{"source": f"The capital of land {number}", "target": f"city {number * 7 % 90}"} for number in range(60)]
    for name, rows in (("text", texts), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: str(folder / f"{name}.jsonl") for name in ("text", "pairs")}


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *((family, "decoder") for family in DECODERS),
        *((family, "encoder") for family in ENCODERS),
        *((family, "encoder-decoder") for family in ENCODER_DECODERS),
    ],
)
def test_a_family_is_trained_finished_evaluated_and_exported(family: str, kind: str, data: dict[str, str], tmp_path):
    folder = folder_of(family, kind, tmp_path / "base")
    rows = data["pairs" if kind == "encoder-decoder" else "text"]
    run = lavra.train([rows], base=str(folder), out=str(tmp_path / "run"), **{**QUICK, "samples": 1})
    assert run.status == "finished"
    if kind == "decoder":
        assert run.evaluate().to_json()["bits_per_byte"]
    made = export(str(run.path), tmp_path / "out")
    assert made.certificate.holds


@pytest.mark.parametrize("family", RECURRENT)
def test_a_recurrent_family_is_resumed_to_the_same_bits_and_exported(family: str, data: dict[str, str], tmp_path):
    folder = folder_of(family, "decoder", tmp_path / "base")
    fields = {**QUICK, "steps": 4, "samples": 1, "checkpoint_every": 1, "keep_checkpoints": 9}
    run = lavra.train([data["text"]], base=str(folder), out=str(tmp_path / "run"), **fields)
    losses = [line["loss"] for line in run.metrics if line["split"] == "train"]
    figure, weights = run.evaluate().to_json()["bits_per_byte"], run.path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    for later in sorted((run.path / "checkpoints").glob("step-*"))[2:]:  # as after a kill in the third step
        shutil.rmtree(later)
    for late in (run.path / "result.json", weights):
        late.unlink()
    resumed = lavra.resume(run.path)
    assert resumed.status == "finished"
    assert [line["loss"] for line in resumed.metrics if line["split"] == "train"] == losses
    assert weights.read_bytes() == whole
    assert resumed.evaluate().to_json()["bits_per_byte"] == figure
    assert export(str(run.path), tmp_path / "out").certificate.holds

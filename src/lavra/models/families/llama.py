"""Llama 1 to 3, and the similar families Mistral, Qwen2 and Qwen3, which differ in biases, head norms and windows."""

from __future__ import annotations

from dataclasses import replace

from lavra.models.families.family import Family, Names
from lavra.models.families.layouts import GATED, QUERY_KEY_VALUE, VOCABULARY
from lavra.models.families.rules import (
    Choice,
    Dropout,
    Fixed,
    Rotary,
    Rule,
    Same,
    SlidingWindow,
    Switch,
    WholeHeads,
    Window,
)

_ACTIVATIONS = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu"}

SHAPE: tuple[Rule, ...] = (
    Fixed({"norm": "rmsnorm", "norm_weight": True, "qk_norm": False, "embedding_norm": False}),
    Same("vocabulary", "vocab_size"),
    Same("context", "max_position_embeddings", 2048),
    Same("width", "hidden_size"),
    Same("depth", "num_hidden_layers"),
    Same("heads", "num_attention_heads"),
    Same("mlp_width", "intermediate_size"),
    Same("norm_epsilon", "rms_norm_eps", 1e-6),
    Choice("activation", "hidden_act", _ACTIVATIONS, "silu"),
    Same("tied", "tie_word_embeddings", False),
    Rotary(),
    Dropout(("attention_dropout",)),
)

"""Rules that Llama and similar families share."""

_NAMES = (
    Names("embedding", ("embed_tokens",), VOCABULARY),
    Names("blocks.{}.attention_norm", ("layers.{}.input_layernorm",)),
    Names(
        "blocks.{}.attention.qkv",
        ("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
        QUERY_KEY_VALUE,
    ),
    Names("blocks.{}.attention.query_norm", ("layers.{}.self_attn.q_norm",)),
    Names("blocks.{}.attention.key_norm", ("layers.{}.self_attn.k_norm",)),
    Names("blocks.{}.attention.output", ("layers.{}.self_attn.o_proj",)),
    Names("blocks.{}.mlp_norm", ("layers.{}.post_attention_layernorm",)),
    Names("blocks.{}.mlp.up", ("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"), GATED),
    Names("blocks.{}.mlp.down", ("layers.{}.mlp.down_proj",)),
    Names("final_norm", ("norm",)),
    Names("output", ("lm_head",), VOCABULARY),
)

LLAMA = Family(
    name="llama",
    title="Llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    rules=(
        *SHAPE,
        Same("kv_heads", "num_key_value_heads", 0),
        Same("head_width", "head_dim", 0),
        WholeHeads(),
        Switch(("attention_bias", "output_bias"), "attention_bias", False),
        Switch(("mlp_bias",), "mlp_bias", False),
    ),
    names=_NAMES,
    ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)

MISTRAL = replace(
    LLAMA,
    name="mistral",
    title="Mistral",
    architecture="MistralForCausalLM",
    rules=(*SHAPE, Same("kv_heads", "num_key_value_heads", 8), Same("head_width", "head_dim", 0), SlidingWindow(4096)),
)

QWEN2 = replace(
    LLAMA,
    name="qwen2",
    title="Qwen2",
    architecture="Qwen2ForCausalLM",
    rules=(
        *SHAPE,
        Same("kv_heads", "num_key_value_heads", 32),
        Fixed({"attention_bias": True}),
        Window(4096, "use_sliding_window"),
    ),
)

QWEN3 = replace(
    LLAMA,
    name="qwen3",
    title="Qwen3",
    architecture="Qwen3ForCausalLM",
    rules=(
        *SHAPE,
        Fixed({"qk_norm": True, "qk_norm_weight": True}),
        Same("kv_heads", "num_key_value_heads", 32),
        Same("head_width", "head_dim", 128),
        Switch(("attention_bias", "output_bias"), "attention_bias", False),
        Window(4096, "use_sliding_window"),
    ),
)

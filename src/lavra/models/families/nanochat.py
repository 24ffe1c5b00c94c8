"""NanoChat (Karpathy 2025), which is also the form of lavra's own default shape.

It norms queries and keys after the rotation where we do before; a rotation does not change a root mean square, so
without a gain both are the same. It rotates by the negative angle, which its layout turns round.
"""

from __future__ import annotations

from lavra.models.families.family import Family, Names
from lavra.models.families.gpt2 import ACTIVATIONS
from lavra.models.families.layouts import QUERY_KEY_VALUE_BACKWARDS, VOCABULARY
from lavra.models.families.rules import Choice, Dropout, Fixed, Only, Rotary, Same, Switch

NANOCHAT = Family(
    name="nanochat",
    title="NanoChat",
    architecture="NanoChatForCausalLM",
    prefix="model.",
    rules=(
        Fixed({"norm": "rmsnorm", "norm_weight": False, "qk_norm": True, "embedding_norm": True}),
        Same("vocabulary", "vocab_size"),
        Same("context", "max_position_embeddings", 2048),
        Same("width", "hidden_size"),
        Same("depth", "num_hidden_layers"),
        Same("heads", "num_attention_heads"),
        Same("kv_heads", "num_key_value_heads", 0),
        Same("head_width", "head_dim", 0),
        Same("mlp_width", "intermediate_size", 8192),
        Same("norm_epsilon", "rms_norm_eps", 1e-6),
        Switch(("attention_bias", "output_bias"), "attention_bias", False),
        Choice("activation", "hidden_act", {"relu2": "relu2", **ACTIVATIONS}, "relu2"),
        Same("tied", "tie_word_embeddings", False),
        Rotary(),
        Dropout(("attention_dropout",)),
        Only("final_logit_softcapping", None, default=15.0),
    ),
    names=(
        Names("embedding", ("embed_tokens",), VOCABULARY),
        Names(
            "blocks.{}.attention.qkv",
            ("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
            QUERY_KEY_VALUE_BACKWARDS,
        ),
        Names("blocks.{}.attention.output", ("layers.{}.self_attn.o_proj",)),
        Names("blocks.{}.mlp.up", ("layers.{}.mlp.fc1",)),
        Names("blocks.{}.mlp.down", ("layers.{}.mlp.fc2",)),
        Names("output", ("lm_head",), VOCABULARY),
    ),
)

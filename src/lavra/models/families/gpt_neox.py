"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): branches in parallel, part of each head rotated."""

from __future__ import annotations

from lavra.models.families.family import Family, Names
from lavra.models.families.gpt2 import ACTIVATIONS
from lavra.models.families.layouts import BY_HEAD, VOCABULARY
from lavra.models.families.rules import Choice, Dropout, Fixed, Rotary, Same, Switch

GPT_NEOX = Family(
    name="gpt_neox",
    title="GPT-NeoX",
    architecture="GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    head="embed_out",
    rules=(
        Fixed(
            {
                "norm": "layernorm",
                "norm_weight": True,
                "mlp_bias": True,
                "qk_norm": False,
                "embedding_norm": False,
            }
        ),
        Same("vocabulary", "vocab_size"),
        Same("context", "max_position_embeddings", 2048),
        Same("width", "hidden_size"),
        Same("depth", "num_hidden_layers"),
        Same("heads", "num_attention_heads"),
        Same("mlp_width", "intermediate_size"),
        Same("norm_epsilon", "layer_norm_eps", 1e-5),
        Rotary("rotary_emb_base", "rotary_pct", 0.25),
        Same("parallel", "use_parallel_residual", True),
        Switch(("attention_bias", "output_bias"), "attention_bias", True),
        Choice("activation", "hidden_act", {"gelu": "gelu", **ACTIVATIONS}, "gelu"),
        Same("tied", "tie_word_embeddings", False),
        Dropout(("attention_dropout", "hidden_dropout")),
    ),
    names=(
        Names("embedding", ("embed_in",), VOCABULARY),
        Names("blocks.{}.attention_norm", ("layers.{}.input_layernorm",)),
        Names("blocks.{}.attention.qkv", ("layers.{}.attention.query_key_value",), BY_HEAD),
        Names("blocks.{}.attention.output", ("layers.{}.attention.dense",)),
        Names("blocks.{}.mlp_norm", ("layers.{}.post_attention_layernorm",)),
        Names("blocks.{}.mlp.up", ("layers.{}.mlp.dense_h_to_4h",)),
        Names("blocks.{}.mlp.down", ("layers.{}.mlp.dense_4h_to_h",)),
        Names("final_norm", ("final_layer_norm",)),
        Names("output", ("embed_out",), VOCABULARY),
    ),
    ignored=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
)

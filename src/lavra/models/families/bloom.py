"""BLOOM (BigScience 2022): ALiBi instead of positions, and a layer norm on the embeddings."""

from __future__ import annotations

from lavra.models.families.family import Family, Names
from lavra.models.families.layouts import BY_HEAD, VOCABULARY
from lavra.models.families.rules import Dropout, Fixed, Only, Same

BLOOM = Family(
    name="bloom",
    title="BLOOM",
    architecture="BloomForCausalLM",
    prefix="transformer.",
    rules=(
        Fixed(
            {
                "positions": "alibi",
                "norm": "layernorm",
                "norm_weight": True,
                "activation": "gelu_tanh",
                "attention_bias": True,
                "output_bias": True,
                "mlp_bias": True,
                "qk_norm": False,
                "embedding_norm": True,
                "embedding_norm_weight": True,
            }
        ),
        Same("vocabulary", "vocab_size"),
        Same("context", "seq_length", 2048),
        Same("width", "hidden_size", None, ("n_embed",)),
        Same("depth", "n_layer", None, ("num_hidden_layers",)),
        Same("heads", "n_head", None, ("num_attention_heads",)),
        Same("norm_epsilon", "layer_norm_epsilon", 1e-5),
        Same("tied", "tie_word_embeddings", True),
        Dropout(("hidden_dropout", "attention_dropout")),
        Only("apply_residual_connection_post_layernorm", False),
    ),
    names=(
        Names("embedding", ("word_embeddings",), VOCABULARY),
        Names("embedding_norm", ("word_embeddings_layernorm",)),
        Names("blocks.{}.attention_norm", ("h.{}.input_layernorm",)),
        Names("blocks.{}.attention.qkv", ("h.{}.self_attention.query_key_value",), BY_HEAD),
        Names("blocks.{}.attention.output", ("h.{}.self_attention.dense",)),
        Names("blocks.{}.mlp_norm", ("h.{}.post_attention_layernorm",)),
        Names("blocks.{}.mlp.up", ("h.{}.mlp.dense_h_to_4h",)),
        Names("blocks.{}.mlp.down", ("h.{}.mlp.dense_4h_to_h",)),
        Names("final_norm", ("ln_f",)),
        Names("output", ("lm_head",), VOCABULARY),
    ),
)

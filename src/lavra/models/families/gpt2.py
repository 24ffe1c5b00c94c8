"""GPT-2 (Radford et al. 2019): fused queries, keys and values, weights as (inputs, outputs), learned positions."""

from __future__ import annotations

from lavra.models.families.family import Family, Names
from lavra.models.families.layouts import TRANSPOSED, VOCABULARY
from lavra.models.families.rules import Choice, Dropout, Fixed, Only, Same

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
}
"""Our name of each activation without a gate, by its name in `transformers`."""

GPT2 = Family(
    name="gpt2",
    title="GPT-2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    rules=(
        Fixed(
            {
                "positions": "learned",
                "norm": "layernorm",
                "norm_weight": True,
                "attention_bias": True,
                "output_bias": True,
                "mlp_bias": True,
                "qk_norm": False,
                "embedding_norm": False,
            }
        ),
        Same("vocabulary", "vocab_size"),
        Same("context", "n_positions", 1024, ("n_ctx", "max_position_embeddings")),
        Same("width", "n_embd", None, ("hidden_size",)),
        Same("depth", "n_layer", None, ("num_hidden_layers",)),
        Same("heads", "n_head", None, ("num_attention_heads",)),
        Same("mlp_width", "n_inner", 0),
        Same("norm_epsilon", "layer_norm_epsilon", 1e-5),
        Choice("activation", "activation_function", ACTIVATIONS, "gelu_new"),
        Same("tied", "tie_word_embeddings", True),
        Dropout(("resid_pdrop", "embd_pdrop", "attn_pdrop")),
        Only("scale_attn_weights", True),
        Only("scale_attn_by_inverse_layer_idx", False),
        Only("add_cross_attention", False),
    ),
    names=(
        Names("embedding", ("wte",), VOCABULARY),
        Names("position_embedding", ("wpe",)),
        Names("blocks.{}.attention_norm", ("h.{}.ln_1",)),
        Names("blocks.{}.attention.qkv", ("h.{}.attn.c_attn",), TRANSPOSED),
        Names("blocks.{}.attention.output", ("h.{}.attn.c_proj",), TRANSPOSED),
        Names("blocks.{}.mlp_norm", ("h.{}.ln_2",)),
        Names("blocks.{}.mlp.up", ("h.{}.mlp.c_fc",), TRANSPOSED),
        Names("blocks.{}.mlp.down", ("h.{}.mlp.c_proj",), TRANSPOSED),
        Names("final_norm", ("ln_f",)),
        Names("output", ("lm_head",), VOCABULARY),
    ),
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),
)

"""OPT (Zhang et al. 2022): like GPT-2 with ReLU; opt-350m has its norms after the sums and narrower embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavra.models.families.family import Family, Names
from lavra.models.families.gpt2 import ACTIVATIONS
from lavra.models.families.layouts import POSITIONS_FROM_2, QUERY_KEY_VALUE, VOCABULARY
from lavra.models.families.rules import Choice, Config, Dropout, Fixed, Same, Switch
from lavra.models.spec import DecoderSpec


@dataclass(frozen=True)
class _NormPlacement:
    """Norms before the branches and a final norm, or norms after the sums and no final norm."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        before = config.get("do_layer_norm_before", True)
        fields["norm_placement"] = "before" if before else "after"
        fields["final_norm"] = bool(before and not config.get("_remove_final_layer_norm", False))

    def write(self, spec: DecoderSpec, config: Config) -> None:
        config["do_layer_norm_before"] = spec.norm_placement == "before"
        config["_remove_final_layer_norm"] = not spec.final_norm


OPT = Family(
    name="opt",
    title="OPT",
    architecture="OPTForCausalLM",
    prefix="model.decoder.",
    rules=(
        Fixed(
            {
                "positions": "learned",
                "norm": "layernorm",
                "norm_epsilon": 1e-5,
                "qk_norm": False,
                "embedding_norm": False,
            }
        ),
        Same("vocabulary", "vocab_size"),
        Same("context", "max_position_embeddings", 2048),
        Same("width", "hidden_size"),
        Same("depth", "num_hidden_layers"),
        Same("heads", "num_attention_heads"),
        Same("mlp_width", "ffn_dim"),
        Same("embedding_width", "word_embed_proj_dim", 0),
        _NormPlacement(),
        Switch(("norm_weight",), "layer_norm_elementwise_affine", True),
        Switch(("attention_bias", "output_bias", "mlp_bias"), "enable_bias", True),
        Choice("activation", "activation_function", ACTIVATIONS, "relu"),
        Same("tied", "tie_word_embeddings", True),
        Dropout(("dropout", "attention_dropout")),
    ),
    names=(
        Names("embedding", ("embed_tokens",), VOCABULARY),
        Names("position_embedding", ("embed_positions",), POSITIONS_FROM_2),
        Names("input_projection", ("project_in",)),
        Names("blocks.{}.attention_norm", ("layers.{}.self_attn_layer_norm",)),
        Names(
            "blocks.{}.attention.qkv",
            ("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
            QUERY_KEY_VALUE,
        ),
        Names("blocks.{}.attention.output", ("layers.{}.self_attn.out_proj",)),
        Names("blocks.{}.mlp_norm", ("layers.{}.final_layer_norm",)),
        Names("blocks.{}.mlp.up", ("layers.{}.fc1",)),
        Names("blocks.{}.mlp.down", ("layers.{}.fc2",)),
        Names("final_norm", ("final_layer_norm",)),
        Names("feature_projection", ("project_out",)),
        Names("output", ("lm_head",), VOCABULARY),
    ),
)

"""Gemma 2 (2024, arXiv 2408.00118): norms before and after each branch, capped logits, windows in every other block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavra.models.families.family import Family, Names
from lavra.models.families.layouts import GATED, LESS_ONE, QUERY_KEY_VALUE, VOCABULARY
from lavra.models.families.rules import Choice, Config, Dropout, Fixed, Only, Rotary, Same, Switch, unsupported
from lavra.models.spec import DecoderSpec

_WINDOW, _CAP, _FINAL_CAP, _SCALAR = 4096, 50.0, 30.0, 256
"""What Gemma 2 has where its configuration says nothing: the tokens of a window, the caps, and the number of channels
by whose root scores are divided."""


@dataclass(frozen=True)
class _Windows:
    """A window in every other block, beginning with the first, where the context is longer."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        depth, window = int(fields["depth"]), int(config.get("sliding_window", _WINDOW) or 0)
        kinds = config.get("layer_types") or _kinds(depth)
        if list(kinds) != _kinds(depth) or window == 1:
            raise unsupported("layer_types" if window != 1 else "sliding_window", kinds if window != 1 else window)
        if window and window < fields["context"]:
            fields.update(window=window - 1, global_every=2, global_first=1)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write the window, or one that hides nothing."""
        config["sliding_window"] = spec.window + 1 if spec.window else spec.context
        config["layer_types"] = _kinds(spec.depth)


def _kinds(depth: int) -> list[str]:
    return ["full_attention" if number % 2 else "sliding_attention" for number in range(depth)]


@dataclass(frozen=True)
class _Scales:
    """The factors on embeddings and scores, and the caps of scores and logits."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        scalar = config.get("query_pre_attn_scalar", _SCALAR)
        fields.update(
            embedding_scale=float(int(fields["width"]) ** 0.5),
            attention_scale=float(scalar) ** -0.5,
            attention_cap=float(config.get("attn_logit_softcapping", _CAP) or 0.0),
            logit_cap=float(config.get("final_logit_softcapping", _FINAL_CAP) or 0.0),
        )

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write all but the factor on embeddings, which is always √width."""
        scale = spec.attention_scale or spec.size_of_head**-0.5
        scalar = scale**-2.0
        config["query_pre_attn_scalar"] = round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar
        config["attn_logit_softcapping"] = spec.attention_cap or None
        config["final_logit_softcapping"] = spec.logit_cap or None


GEMMA2 = Family(
    name="gemma2",
    title="Gemma 2",
    architecture="Gemma2ForCausalLM",
    prefix="model.",
    rules=(
        Fixed(
            {
                "norm": "rmsnorm",
                "norm_weight": True,
                "norm_placement": "both",
                "qk_norm": False,
                "embedding_norm": False,
            }
        ),
        Same("vocabulary", "vocab_size"),
        Same("context", "max_position_embeddings", 8192),
        Same("width", "hidden_size"),
        Same("depth", "num_hidden_layers"),
        Same("heads", "num_attention_heads"),
        Same("kv_heads", "num_key_value_heads", 4),
        Same("head_width", "head_dim", 256),
        Same("mlp_width", "intermediate_size"),
        Same("norm_epsilon", "rms_norm_eps", 1e-6),
        Choice(
            "activation",
            "hidden_activation",
            {"gelu_pytorch_tanh": "geglu_tanh", "gelu": "geglu", "silu": "swiglu"},
            "gelu_pytorch_tanh",
        ),
        Same("tied", "tie_word_embeddings", True),
        Switch(("attention_bias", "output_bias"), "attention_bias", False),
        Rotary(),
        _Scales(),
        _Windows(),
        Dropout(("attention_dropout",)),
        Only("use_bidirectional_attention", None),
    ),
    names=(
        Names("embedding", ("embed_tokens",), VOCABULARY),
        Names("blocks.{}.attention_norm", ("layers.{}.input_layernorm",), LESS_ONE),
        Names(
            "blocks.{}.attention.qkv",
            ("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
            QUERY_KEY_VALUE,
        ),
        Names("blocks.{}.attention.output", ("layers.{}.self_attn.o_proj",)),
        Names("blocks.{}.attention_post", ("layers.{}.post_attention_layernorm",), LESS_ONE),
        Names("blocks.{}.mlp_norm", ("layers.{}.pre_feedforward_layernorm",), LESS_ONE),
        Names("blocks.{}.mlp.up", ("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"), GATED),
        Names("blocks.{}.mlp.down", ("layers.{}.mlp.down_proj",)),
        Names("blocks.{}.mlp_post", ("layers.{}.post_feedforward_layernorm",), LESS_ONE),
        Names("final_norm", ("norm",), LESS_ONE),
        Names("output", ("lm_head",), VOCABULARY),
    ),
)

"""Mixtures of experts: Mixtral (Jiang et al. 2024, arXiv 2401.04088), Qwen2-MoE and Qwen3-MoE, and OLMoE (Muennighoff
et al. 2024, arXiv 2409.02060), which are Llama, Qwen2 and Qwen3 else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lavra.models.families.family import Names
from lavra.models.families.layouts import GATED
from lavra.models.families.llama import LLAMA, QWEN3, SHAPE
from lavra.models.families.rules import (
    Config,
    Fixed,
    Only,
    Same,
    SlidingWindow,
    Switch,
    WholeHeads,
    Window,
    unsupported,
)
from lavra.models.spec import DecoderSpec

_OTHER = tuple(line for line in LLAMA.names if ".mlp." not in line.ours)


def _experts(block: str, gate: str, up: str, down: str) -> tuple[Names, ...]:
    """Return the names of router and experts; the second `{}` stands for the number of the expert."""
    return (
        Names("blocks.{}.mlp.router", (f"{block}.gate",)),
        Names("blocks.{}.mlp.experts.{}.up", (f"{block}.experts.{{}}.{gate}", f"{block}.experts.{{}}.{up}"), GATED),
        Names("blocks.{}.mlp.experts.{}.down", (f"{block}.experts.{{}}.{down}",)),
    )


MIXTRAL = replace(
    LLAMA,
    name="mixtral",
    title="Mixtral",
    architecture="MixtralForCausalLM",
    rules=(
        *SHAPE,
        Same("kv_heads", "num_key_value_heads", 8),
        Same("head_width", "head_dim", 0),
        Same("experts", "num_local_experts", 8),
        Same("experts_per_token", "num_experts_per_tok", 2),
        Fixed({"expert_normalized": True}),
        Only("router_jitter_noise", 0.0),
        SlidingWindow(0),
    ),
    names=(*_OTHER, *_experts("layers.{}.block_sparse_moe", "w1", "w3", "w2")),
)

QWEN3_MOE = replace(
    QWEN3,
    name="qwen3_moe",
    title="Qwen3-MoE",
    architecture="Qwen3MoeForCausalLM",
    rules=(
        *QWEN3.rules,
        Same("mlp_width", "moe_intermediate_size", 768),
        Same("experts", "num_experts", 128, ("num_local_experts",)),
        Same("experts_per_token", "num_experts_per_tok", 8),
        Same("expert_normalized", "norm_topk_prob", False),
        Only("decoder_sparse_step", 1),
        Only("mlp_only_layers", []),
    ),
    names=(*_OTHER, *_experts("layers.{}.mlp", "gate_proj", "up_proj", "down_proj")),
)


_SHARED_WIDTH = "shared_expert_intermediate_size"


@dataclass(frozen=True)
class _SharedExperts:
    """The MLP that every token passes, weighed by a gate: as wide as some experts together."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        width = int(config.get(_SHARED_WIDTH, 5632))
        if not width or width % fields["mlp_width"]:
            raise unsupported(_SHARED_WIDTH, width)
        fields.update(shared_experts=width // fields["mlp_width"], shared_gate=True)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write the width; where there is no shared expert, that of one, which `missing` notices."""
        config[_SHARED_WIDTH] = max(1, spec.shared_experts) * spec.hidden_width


QWEN2_MOE = replace(
    LLAMA,
    name="qwen2_moe",
    title="Qwen2-MoE",
    architecture="Qwen2MoeForCausalLM",
    rules=(
        *SHAPE,
        Same("kv_heads", "num_key_value_heads", 16),
        WholeHeads(),
        Switch(("attention_bias",), "qkv_bias", True),
        Window(4096, "use_sliding_window"),
        Same("mlp_width", "moe_intermediate_size", 1408),
        _SharedExperts(),
        Same("experts", "num_experts", 60, ("num_local_experts",)),
        Same("experts_per_token", "num_experts_per_tok", 4),
        Same("expert_normalized", "norm_topk_prob", False),
        Only("decoder_sparse_step", 1),
        Only("mlp_only_layers", []),
    ),
    names=(
        *_OTHER,
        *_experts("layers.{}.mlp", "gate_proj", "up_proj", "down_proj"),
        Names(
            "blocks.{}.mlp.shared.up",
            ("layers.{}.mlp.shared_expert.gate_proj", "layers.{}.mlp.shared_expert.up_proj"),
            GATED,
        ),
        Names("blocks.{}.mlp.shared.down", ("layers.{}.mlp.shared_expert.down_proj",)),
        Names("blocks.{}.mlp.shared_gate", ("layers.{}.mlp.shared_expert_gate",)),
    ),
)

OLMOE = replace(
    LLAMA,
    name="olmoe",
    title="OLMoE",
    architecture="OlmoeForCausalLM",
    rules=(
        *SHAPE,
        Fixed({"qk_norm": True, "qk_norm_weight": True, "qk_norm_whole": True}),
        Same("context", "max_position_embeddings", 4096),
        Same("norm_epsilon", "rms_norm_eps", 1e-5),
        Same("kv_heads", "num_key_value_heads", 0),
        WholeHeads(),
        Switch(("attention_bias", "output_bias"), "attention_bias", False),
        Same("experts", "num_experts", 64, ("num_local_experts",)),
        Same("experts_per_token", "num_experts_per_tok", 8),
        Same("expert_normalized", "norm_topk_prob", False),
        Only("clip_qkv", None),
    ),
    names=(*_OTHER, *_experts("layers.{}.mlp", "gate_proj", "up_proj", "down_proj")),
)

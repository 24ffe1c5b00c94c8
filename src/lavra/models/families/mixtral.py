"""Mixtures of experts: Mixtral (Jiang et al. 2024, arXiv 2401.04088) and Qwen3-MoE, which are Llama and Qwen3 else."""

from __future__ import annotations

from dataclasses import replace

from lavra.models.families.family import Names
from lavra.models.families.layouts import GATED
from lavra.models.families.llama import LLAMA, QWEN3, SHAPE
from lavra.models.families.rules import Fixed, Only, Same, SlidingWindow

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

"""Small random models of `transformers`, one configuration after another for each family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 131  # no multiple of 64, so that padding rows are there

_LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_OPT: dict[str, Any] = {
    "hidden_size": 24,
    "ffn_dim": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 48,
}
_GPT2: dict[str, Any] = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 48}
_NEOX: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
}
_GEMMA2: dict[str, Any] = {**_LLAMA, "head_dim": 12, "num_key_value_heads": 2, "query_pre_attn_scalar": 20}
_MOE: dict[str, Any] = {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "moe_intermediate_size": 20,
    "num_experts": 5,
    "num_experts_per_tok": 3,
}
_QWEN2_MOE: dict[str, Any] = {
    "num_key_value_heads": 2,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 40,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
_OLMOE: dict[str, Any] = {"intermediate_size": 20, "num_experts": 5, "num_experts_per_tok": 3}
_NANOCHAT: dict[str, Any] = {**_LLAMA, "final_logit_softcapping": None}

CONFIGURATIONS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", _GPT2),
    ("gpt2", {**_GPT2, "n_inner": 50, "activation_function": "relu", "tie_word_embeddings": False, "n_layer": 3}),
    ("gpt2", {**_GPT2, "activation_function": "gelu", "layer_norm_epsilon": 1e-3, "n_head": 4, "n_layer": 1}),
    ("opt", _OPT),
    ("opt", {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    ("opt", {**_OPT, "enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"}),
    ("opt", {**_OPT, "_remove_final_layer_norm": True, "tie_word_embeddings": False}),
    ("gpt_neox", _NEOX),
    ("gpt_neox", {**_NEOX, "use_parallel_residual": False, "rotary_pct": 0.5, "rotary_emb_base": 500}),
    ("gpt_neox", {**_NEOX, "rotary_pct": 1.0, "attention_bias": False, "tie_word_embeddings": True}),
    ("gpt_neox", {**_NEOX, "hidden_act": "gelu_new", "rope_scaling": {"type": "linear", "factor": 3.0}}),
    ("llama", {**_LLAMA, "num_key_value_heads": 2}),
    ("llama", {**_LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 16}),
    ("llama", {**_LLAMA, "num_key_value_heads": 1, "rope_parameters": _LLAMA3}),
    ("llama", {**_LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 700.0, "hidden_act": "gelu"}),
    ("mistral", {**_LLAMA, "num_key_value_heads": 2, "sliding_window": 40}),
    ("mistral", {**_LLAMA, "num_key_value_heads": 4, "sliding_window": None, "head_dim": 12}),
    ("mistral", {**_LLAMA, "num_key_value_heads": 2, "sliding_window": 6}),
    ("qwen2", {**_LLAMA, "num_key_value_heads": 2}),
    ("qwen2", {**_LLAMA, "num_key_value_heads": 4, "tie_word_embeddings": True, "rms_norm_eps": 1e-4}),
    ("qwen3", {**_LLAMA, "num_key_value_heads": 2, "head_dim": 8}),
    ("qwen3", {**_LLAMA, "num_key_value_heads": 1, "head_dim": 24, "attention_bias": True}),
    ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    ("bloom", {"hidden_size": 36, "n_layer": 2, "n_head": 6, "tie_word_embeddings": False}),
    ("gemma2", {**_GEMMA2, "sliding_window": 7, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0}),
    ("gemma2", {**_GEMMA2, "attn_logit_softcapping": None, "query_pre_attn_scalar": 200, "sliding_window": 5}),
    ("mixtral", {**_LLAMA, "num_key_value_heads": 2, "num_local_experts": 4}),
    ("mixtral", {**_LLAMA, "num_key_value_heads": 4, "num_local_experts": 3, "sliding_window": 8, "head_dim": 12}),
    ("qwen3_moe", {**_LLAMA, **_MOE, "norm_topk_prob": True}),
    ("qwen3_moe", {**_LLAMA, **_MOE, "num_experts": 4, "num_experts_per_tok": 1, "attention_bias": True}),
    ("qwen2_moe", {**_LLAMA, **_QWEN2_MOE}),
    ("qwen2_moe", {**_LLAMA, **_QWEN2_MOE, "norm_topk_prob": True, "qkv_bias": False, "num_experts_per_tok": 3}),
    ("olmoe", {**_LLAMA, **_OLMOE}),
    ("olmoe", {**_LLAMA, **_OLMOE, "norm_topk_prob": True, "num_key_value_heads": 2, "attention_bias": True}),
    ("nanochat", _NANOCHAT),
    ("nanochat", {**_NANOCHAT, "num_key_value_heads": 2, "tie_word_embeddings": True, "attention_bias": True}),
]
"""(`model_type`, what its configuration says beside the vocabulary)."""

NAMES = [f"{kind}-{number}" for number, (kind, _) in enumerate(CONFIGURATIONS)]


def reference(kind: str, options: dict[str, Any], seed: int = 0) -> Any:
    """Return a `transformers` model of that configuration with all parameters at random, gains and biases too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    dropout = {"opt": ("dropout",), "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop")}.get(kind, ())
    config = AutoConfig.for_model(
        kind, **{"vocab_size": VOCABULARY, **special, **dict.fromkeys(dropout, 0.0), **options}
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn_like(parameter)
            if parameter.dim() >= 2:
                parameter.copy_(drawn * parameter.shape[-1] ** -0.5)
            else:
                parameter.copy_(0.2 * drawn + (not name.endswith("bias")))  # gains are near one
    return model.eval()


def logits_of(model: Any, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return a `transformers` model's logits; positions count the tokens that the mask shows."""
    arguments: dict[str, Any] = {"attention_mask": torch.ones_like(inputs) if mask is None else mask.long()}
    if mask is not None and model.config.model_type not in ("opt", "bloom"):  # these two find them in the mask
        arguments["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return model(input_ids=inputs, use_cache=False, **arguments).logits


def opened_exactly(folder: Path, kind: str) -> Any:
    """Open a folder by a class of `transformers`, of which no tensor may be missing or left over."""
    import transformers

    model, report = getattr(transformers, kind).from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()

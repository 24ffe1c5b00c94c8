"""Attention of wrapped models on a processor: what is computed in bf16 learns through attention in fp32.

PyTorch's flash attention for processors takes ten times as long for the backward pass in bf16 as for the forward pass,
and half of a training step of a small encoder. With its inputs converted to fp32 it is faster, and more exact.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

NAME = "sdpa"
"""What `transformers` calls the implementation by PyTorch's scaled dot-product attention."""


@cache
def register_attention() -> None:
    """Let every model of `transformers` learn through attention in fp32 on a processor, once.

    It is done when the first wrapped model computes, because the import takes long.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    usual: Any = ALL_ATTENTION_FUNCTIONS[NAME]

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> Any:
        if not learns_in_fp32(query):
            return usual(module, query, key, value, attention_mask, **options)
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.float()
        wide = {name: one.float() if _is_half(one) else one for name, one in options.items()}
        mixed, weights = usual(module, query.float(), key.float(), value.float(), attention_mask, **wide)
        return mixed.to(query.dtype), weights

    AttentionInterface.register(NAME, attend)


def learns_in_fp32(query: torch.Tensor) -> bool:
    """Return whether attention is computed in fp32: in bf16 on a processor without AMX, while gradients are computed.

    With AMX it was not measured, and stays as it is.

    Args:
        query: Queries, (rows, heads, length, size).
    """
    learning = torch.is_grad_enabled() and query.requires_grad
    return learning and _is_half(query) and query.device.type == "cpu" and not torch.cpu._is_amx_tile_supported()


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16

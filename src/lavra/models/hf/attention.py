"""Attention of wrapped models on a processor: what is computed in bf16 learns through attention in fp32.

PyTorch's flash attention for processors takes ten times as long for the backward pass in bf16 as for the forward pass,
and half of a training step of a small encoder. With its inputs converted to fp32 it is faster, and more exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


# The scores of attention, for those who watch how large they become.


@contextmanager
def watching_wrapped_scores(see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Show the largest score of each attention of a wrapped model before the softmax, during the block.

    Nothing is shown of families that compute attention in a way of their own. Where no wrapped model was ever used, the
    library is not imported.

    Args:
        see: Function that takes the largest score of an attention over all rows, heads and pairs of positions that see
            each other, () float32.
    """
    if not register_attention.cache_info().currsize:
        yield
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    usual: Any = ALL_ATTENTION_FUNCTIONS[NAME]

    def watched(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> Any:
        see(_largest_score(module, query, key, attention_mask, options))
        return usual(module, query, key, value, attention_mask, **options)

    AttentionInterface.register(NAME, watched)
    try:
        yield
    finally:
        AttentionInterface.register(NAME, usual)


def _largest_score(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """Return the largest score that PyTorch's kernel would put into the softmax, () float32."""
    scaling, bias = options.get("scaling"), options.get("position_bias")
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = (query @ key.transpose(-1, -2)).float() * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        mask = mask[..., : scores.shape[-1]]
        return (scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask).amax()
    asked = options.get("is_causal")
    if (getattr(module, "is_causal", True) if asked is None else asked) and scores.shape[-2] > 1:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores.amax()

"""Attention on a processor by a few large matrix products, with a backward pass of its own.

PyTorch's kernel for processors without matrix tiles (AMX) computes bf16 attention through many small products, and its
backward pass takes four times as long as its forward pass. Whole stripes of scores go through the same library that
multiplies the weights, and the heads that share keys become rows of one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lavra.models.native.attention_masks import Mask, allowed_pairs

_STRIPE = 128
"""Queries of a stripe: so few that its scores stay in the processor's cache."""

_MOST_KEYS = 2048
"""Number of keys up to which the products were measured to be faster than PyTorch's kernel."""


def suit(queries: torch.Tensor, keys: torch.Tensor, mask: Mask) -> bool:
    """Return whether attention by products is faster here than PyTorch's kernel, and has no bias that it cannot learn.

    Args:
        queries: Queries, (rows, heads, length, size).
        keys: Keys, (rows, kv heads, keys, size).
        mask: Mask of the keys that each query attends to.
    """
    if queries.device.type != "cpu" or queries.dtype != torch.bfloat16 or torch.compiler.is_compiling():
        return False
    whole = 1 < queries.shape[2] == keys.shape[2] <= _MOST_KEYS
    return whole and mask.bias is None and not _has_matrix_tiles()


@cache
def _has_matrix_tiles() -> bool:
    return torch.cpu._is_amx_tile_supported()


def attend_by_products(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float = 0.0
) -> torch.Tensor:
    """Return scaled dot-product attention; see `lavra.models.native.attention.attend`.

    The scores are computed again in the backward pass, so that the memory grows with the length alone.

    Args:
        queries: Queries, (rows, heads, length, size).
        keys: Keys, (rows, kv heads, length, size).
        values: Values, (rows, kv heads, length, size).
        mask: Mask without a bias.
        dropout: There is none.
    """
    assert not dropout
    assert mask.bias is None
    bare = mask.allowed is None and mask.document_ids is None
    bias = None
    if not bare or mask.causal:
        allowed = allowed_pairs(mask, queries, keys)  # adding -inf takes a third of the time of filling it in
        bias = torch.zeros(allowed.shape, dtype=queries.dtype).masked_fill_(~allowed, float("-inf"))
    mixed: torch.Tensor = _Products.apply(queries, keys, values, bias, mask.causal)  # pyright: ignore[reportAssignmentType]
    return mixed


class _Products(torch.autograd.Function):
    """The products and their gradients.

    With P = softmax(S) and S = QKᵀ/√size, the gradients are dV = PᵀdO, dS = P ∘ (dP - rowsum(P ∘ dP)) for dP = dO Vᵀ,
    dQ = dS K/√size and dK = dSᵀQ/√size.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor | None,
        causal: bool,
    ) -> torch.Tensor:
        ctx.causal = causal
        ctx.save_for_backward(queries, keys, values, bias)
        mixed, places = _like(queries, keys.shape[1])
        flat_values = values.reshape(-1, *values.shape[2:])
        for queried, seen, _, shares in _shares(queries, keys, bias, causal):
            places[..., queried, :] = torch.bmm(shares, flat_values[:, seen]).view(places[..., queried, :].shape)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        queries, keys, values, bias = ctx.saved_tensors
        scale = queries.shape[3] ** -0.5
        heads = keys.shape[1]
        upstream = _grouped(gradients[0], heads)
        flat_keys, flat_values = (part.reshape(-1, *part.shape[2:]) for part in (keys, values))
        to_queries, places = _like(queries, heads)
        to_keys, to_values = (torch.zeros(flat_keys.shape, dtype=torch.float32) for _ in range(2))
        for queried, seen, asked, shares in _shares(queries, keys, bias, ctx.causal):
            arriving = upstream[..., queried, :].reshape(asked.shape)
            to_values[:, seen] += torch.bmm(shares.transpose(1, 2), arriving)
            to_shares = torch.bmm(arriving, flat_values[:, seen].transpose(1, 2))
            to_scores = torch._softmax_backward_data(to_shares, shares, -1, shares.dtype)
            stripe = places[..., queried, :]
            stripe.copy_(torch.bmm(to_scores, flat_keys[:, seen]).mul_(scale).view(stripe.shape))
            to_keys[:, seen] += torch.bmm(to_scores.transpose(1, 2), asked)
        return (
            to_queries,
            to_keys.mul_(scale).to(keys.dtype).view(keys.shape),
            to_values.to(values.dtype).view(values.shape),
            None,
            None,
        )


def _grouped(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """Return heads, (rows, heads, length, size), by the keys that they share: (rows, groups, heads of each, …)."""
    return heads.unflatten(1, (groups, -1))


def _like(queries: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return room for a result, and the same by groups; the heads of a position lie together, as what follows reads
    them."""
    rows, heads, length, size = queries.shape
    made = queries.new_empty(rows, length, heads, size).transpose(1, 2)
    return made, _grouped(made, groups)


def _shares(
    queries: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor | None, causal: bool
) -> Iterator[tuple[slice, slice, torch.Tensor, torch.Tensor]]:
    """Yield for each stripe its queries and keys, the queries as rows of products, (rows · groups, heads of each ·
    stripe, size), and the shares of attention, (rows · groups, heads of each · stripe, keys)."""
    rows, groups, length, size = keys.shape
    by_group, flat_keys = _grouped(queries, groups), keys.reshape(rows * groups, length, size)
    for start in range(0, length, _STRIPE):
        queried = slice(start, start + _STRIPE)
        seen = slice(0, start + _STRIPE if causal else length)
        asked = by_group[..., queried, :].reshape(rows * groups, -1, size)
        scores = asked.new_empty(len(asked), asked.shape[1], flat_keys[:, seen].shape[1])
        torch.baddbmm(scores, asked, flat_keys[:, seen].transpose(1, 2), beta=0, alpha=size**-0.5, out=scores)
        if bias is not None:
            scores.view(rows, queries.shape[1], -1, scores.shape[2]).add_(bias[..., queried, seen])
        yield queried, seen, asked, torch.softmax(scores, -1)

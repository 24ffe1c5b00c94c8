"""Attention kernels, chosen by device and length; all give the same result for the same mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

PLAIN_LIMIT = 1024
"""Up to this many keys, products and a softmax in a compiled CPU graph are faster than the library's kernel."""

_FEWEST_QUERIES, _MOST_STRIPES = 128, 4
"""Queries of a stripe at least, and stripes of a row at most: more would leave out more, and run slower."""


@dataclass(slots=True)
class Mask:
    """Who sees whom. Of as many queries as keys, none sees a key that comes later.

    Attributes:
        allowed: (rows | 1, 1, queries, keys) bool, True where a query sees a key. None: causal, nothing else.
        bias: (heads, queries, keys) or (rows, heads, queries, keys) float added to the scores (ALiBi); None for none.
    """

    allowed: torch.Tensor | None = None
    bias: torch.Tensor | None = None


def causal_mask(segments: torch.Tensor | None, length: int, bias: torch.Tensor | None) -> Mask:
    """Return the mask of training: causal, and within the own segment when `segments` (rows, length) is given."""
    if segments is None:
        return Mask(bias=bias)
    index = torch.arange(length, device=segments.device)
    allowed = (segments[:, :, None] == segments[:, None, :]) & (index[:, None] >= index[None, :])
    return Mask(allowed=allowed[:, None], bias=bias)


def alibi_slopes(heads: int) -> torch.Tensor:
    """Return the (heads,) slopes of ALiBi: a geometric sequence, interleaved when heads is no power of two.

    Press et al. 2021 (arXiv 2108.12409) §3 and their released code for other head counts.
    """

    def geometric(count: int) -> list[float]:
        start = 2.0 ** (-8.0 / count)
        return [start ** (index + 1) for index in range(count)]

    power = 2 ** math.floor(math.log2(heads))
    slopes = geometric(power)
    if power < heads:
        slopes += geometric(2 * power)[0::2][: heads - power]
    return torch.tensor(slopes)


def alibi_bias(slopes: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the (rows | 1, heads, queries, keys) bias -slope * (query position - key position)."""
    distance = (queries[:, None, :, None] - keys[:, None, None, :]).to(slopes.dtype)
    return -slopes[None, :, None, None] * distance


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float = 0.0
) -> torch.Tensor:
    """Return softmax(QKᵀ/√size + bias) V under the mask.

    Args:
        queries: (rows, heads, length, size).
        keys: (rows, kv heads, keys, size); fewer heads than the queries' are shared in groups.
        values: like keys.
        mask: who sees whom; under a plain causal mask the queries are those of the last keys.
        dropout: share of attention weights dropped.

    Returns:
        (rows, heads, length, size).
    """
    grouped = queries.shape[1] != keys.shape[1]
    if not dropout and queries.device.type == "cpu" and _plain_is_faster(queries, keys):
        return _plain(queries, keys, values, mask, grouped)
    if mask.allowed is None and mask.bias is None and queries.shape[2] in (1, keys.shape[2]):
        return F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=queries.shape[2] > 1, enable_gqa=grouped
        )
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=_additive(mask, queries, keys), dropout_p=dropout, enable_gqa=grouped
    )


def _plain_is_faster(queries: torch.Tensor, keys: torch.Tensor) -> bool:
    """Whether products and a softmax beat the library's CPU kernel: compiled, or for the one query of generation.

    For one query in bf16 they took from a third to three quarters of the kernel's time.
    """
    if torch.compiler.is_compiling():
        return keys.shape[2] <= PLAIN_LIMIT
    return queries.shape[2] == 1 and queries.dtype == torch.bfloat16


def allowed_pairs(mask: Mask, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the (rows | 1, 1, queries, keys) bool that the mask means; under a causal one the queries are the last."""
    if mask.allowed is not None:
        return mask.allowed
    ones = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool, device=queries.device)
    return ones.tril(keys.shape[2] - queries.shape[2])[None, None]


def _additive(mask: Mask, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the mask as the library's kernel wants it: Boolean, or the bias with -inf where nothing is seen."""
    allowed = allowed_pairs(mask, queries, keys)
    if mask.bias is None:
        return allowed
    return mask.bias.to(queries.dtype).masked_fill(~allowed, float("-inf"))


def _plain(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, grouped: bool) -> torch.Tensor:
    if grouped:
        groups = queries.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    allowed = allowed_pairs(mask, queries, keys) if mask.allowed is not None or queries.shape[2] > 1 else None
    stripes = []
    for queried, seen in _stripes(queries.shape[2], keys.shape[2]):
        scores = (queries[:, :, queried] @ keys[:, :, seen].transpose(-1, -2)) * queries.shape[-1] ** -0.5
        if mask.bias is not None:
            scores = scores + mask.bias[..., queried, seen].to(scores.dtype)
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, :, queried, seen], float("-inf"))
        stripes.append(scores.softmax(-1) @ values[:, :, seen])
    return stripes[0] if len(stripes) == 1 else torch.cat(stripes, 2)


def _stripes(queries: int, keys: int) -> list[tuple[slice, slice]]:
    """Return which queries are computed together with which keys; what no query of a stripe can see is left out."""
    if queries != keys:
        return [(slice(None), slice(None))]
    size = max(_FEWEST_QUERIES, -(-queries // _MOST_STRIPES))
    return [(slice(start, start + size), slice(0, start + size)) for start in range(0, queries, size)]

"""Who sees whom in attention, and the biases that stand for distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_FEWEST_BOUNDS = 64  # entries of `document_bounds` at least
_TOKENS_PER_BOUND = 256  # tokens of a batch that there is an entry for, as long as documents are that long
_MORE_BOUNDS = 4  # times as many entries where documents are shorter


@dataclass(slots=True)
class Mask:
    """Who sees whom. Of as many queries as keys, none sees a key that comes later.

    Attributes:
        allowed: (rows | 1, 1, queries, keys) bool, True where a query sees a key. None: causal, and within the own
            document where `segments` are given.
        bias: (heads, queries, keys) or (rows, heads, queries, keys) float added to the scores (ALiBi); None for none.
        segments: (rows, length) numbers of documents, where no dense `allowed` was made of them.
        bounds: (n,) int32: where each document begins in the rows laid end to end, see `document_bounds`; given with
            `segments` only.
    """

    allowed: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    segments: torch.Tensor | None = None
    bounds: torch.Tensor | None = None


def causal_mask(
    segments: torch.Tensor | None, length: int, bias: torch.Tensor | None, bounds: torch.Tensor | None = None
) -> Mask:
    """Return the mask of training: causal, and within the own document.

    Args:
        segments: (rows, length) number of the document at each position; None where every row is one document.
        length: of a row.
        bias: see `Mask`.
        bounds: of the documents, where attention is to be computed by them instead of by a dense mask.
    """
    if segments is None:
        return Mask(bias=bias)
    if bounds is not None and bias is None:
        return Mask(segments=segments, bounds=bounds)
    return Mask(allowed=_within_documents(segments), bias=bias)


def _within_documents(segments: torch.Tensor) -> torch.Tensor:
    """Return (rows, 1, length, length) bool: causal and within the own segment."""
    index = torch.arange(segments.shape[1], device=segments.device)
    same = segments[:, :, None] == segments[:, None, :]
    return (same & (index[:, None] >= index[None, :]))[:, None]


def document_bounds(segments: torch.Tensor) -> torch.Tensor:
    """Return (n,) int32: where each document begins in the rows laid end to end, then the total, repeated.

    This is what kernels for sequences of different lengths take. n is one of few numbers for rows of one shape, so that
    a compiled graph meets few shapes: documents of no length are free.

    Args:
        segments: (rows, length) number of the document at each position. Equal neighbours in a row are one document.
    """
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = begins.flatten().nonzero()[:, 0].to(torch.int32)
    size = max(_FEWEST_BOUNDS, 1 << (segments.numel() // _TOKENS_PER_BOUND).bit_length())
    while size < len(starts) + 1:
        size *= _MORE_BOUNDS
    bounds = starts.new_full((size,), segments.numel())
    bounds[: len(starts)] = starts
    return bounds


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


def allowed_pairs(mask: Mask, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the (rows | 1, 1, queries, keys) bool that the mask means; under a causal one the queries are the last."""
    if mask.allowed is not None:
        return mask.allowed
    if mask.segments is not None:
        return _within_documents(mask.segments)
    ones = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool, device=queries.device)
    return ones.tril(keys.shape[2] - queries.shape[2])[None, None]


def additive_mask(mask: Mask, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the mask as the library's kernel wants it: Boolean, or the bias with -inf where nothing is seen."""
    allowed = allowed_pairs(mask, queries, keys)
    if mask.bias is None:
        return allowed
    return mask.bias.to(queries.dtype).masked_fill(~allowed, float("-inf"))

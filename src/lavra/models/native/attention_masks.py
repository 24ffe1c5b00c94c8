"""Attention masks, the bounds of packed documents, and the biases of ALiBi."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_FEWEST_BOUNDS = 64
"""Smallest number of entries of `document_bounds`."""

_TOKENS_PER_BOUND = 256
"""Tokens of a batch for each entry of `document_bounds`, which suffices while documents are that long on average."""

_MORE_BOUNDS = 4
"""Factor by which the number of entries grows where documents are shorter."""


@dataclass(slots=True)
class Mask:
    """A mask of the keys that each query attends to.

    Attributes:
        allowed: Whether a query attends to a key, (rows or 1, 1, queries, keys) bool. None means what `causal` and
            `window` say, and within the same document where `document_ids` are given.
        bias: Bias that is added to the scores (ALiBi), (heads, queries, keys) or (rows, heads, queries, keys); None
            adds nothing.
        document_ids: Number of the document of each position, (rows, length), where no dense `allowed` was made of it.
        bounds: Place where each document begins in the concatenated rows, (n,) int32, see `document_bounds`. It is
            given only together with `document_ids`.
        causal: Whether no query attends to a later key, where there are as many queries as keys; such keys are skipped.
            `allowed` must then hide these keys, too.
        window: Largest distance between a query and a key, where no dense `allowed` was made of it; 0 sets no limit.
        tokens: Whether each position is a token and not padding, (rows, length) bool, for a mixture of experts, whose
            balance padding must not count in; None where all are, and for other models.
    """

    allowed: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    document_ids: torch.Tensor | None = None
    bounds: torch.Tensor | None = None
    causal: bool = True
    window: int = 0
    tokens: torch.Tensor | None = None


def causal_mask(
    document_ids: torch.Tensor | None,
    length: int,
    bias: torch.Tensor | None,
    bounds: torch.Tensor | None = None,
    prefix: torch.Tensor | None = None,
) -> Mask:
    """Return the mask of training, which is causal and within each document, apart from prefixes.

    Args:
        document_ids: Number of the document of each position, (rows, length); None where every row is one document.
        length: Length of a row in tokens.
        bias: Bias that is added to the scores, see `Mask`.
        bounds: Bounds of the documents, where attention is to be computed document by document; None makes a dense
            mask.
        prefix: Positions that every position of their document attends to, (rows, length) bool (`PREFIX` in
            `lavra.models.protocols`); None for a mask that is causal throughout.

    Examples:
        >>> causal_mask(torch.tensor([[0, 0, 1]]), 3, None).allowed[0, 0].int().tolist()
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
        >>> prefix = torch.tensor([[True, True, False]])
        >>> causal_mask(None, 3, None, prefix=prefix).allowed[0, 0].int().tolist()
        [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    if prefix is not None:
        return Mask(allowed=_with_prefix(document_ids, prefix), bias=bias, causal=False)
    return attention_mask(document_ids, length, bias, bounds)


def attention_mask(
    document_ids: torch.Tensor | None,
    length: int,
    bias: torch.Tensor | None,
    bounds: torch.Tensor | None = None,
    *,
    causal: bool = True,
    window: int = 0,
    device: torch.device | None = None,
) -> Mask:
    """Return the mask of training: within each document, causal or not, and within a window or not.

    Args:
        document_ids: Number of the document of each position, (rows, length); None where every row is one document.
        length: Length of a row in tokens.
        bias: Bias that is added to the scores, see `Mask`.
        bounds: Bounds of the documents, see `causal_mask`.
        causal: Whether no position attends to a later one.
        window: Largest distance between two positions of which one attends to the other; 0 sets no limit.
        device: Device of the mask where there are no document numbers; None means the CPU.

    Examples:
        >>> attention_mask(None, 4, None, causal=False, window=1).allowed[0, 0].int().tolist()
        [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """
    window = window if window < length - 1 else 0
    if document_ids is None and not window:
        return Mask(bias=bias, causal=causal)
    if document_ids is None:
        index = torch.arange(length, device=device)
        return Mask(allowed=near(index[:, None], index, causal, window)[None, None], bias=bias, causal=causal)
    if bounds is not None and bias is None:
        return Mask(document_ids=document_ids, bounds=bounds, causal=causal, window=window)
    return Mask(allowed=_within_documents(document_ids, causal, window), bias=bias, causal=causal)


def near(queries: torch.Tensor, keys: torch.Tensor, causal: bool, window: int) -> torch.Tensor:
    """Return whether places attend to others by their distance alone, in the shape of the difference of both.

    Args:
        queries: Places that attend.
        keys: Places that are attended to.
        causal: Whether none attends to a later place.
        window: Largest distance; 0 sets no limit.
    """
    distance = queries - keys
    if not window:
        return distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return (distance >= 0) & (distance <= window) if causal else distance.abs() <= window


def _within_documents(document_ids: torch.Tensor, causal: bool, window: int) -> torch.Tensor:
    """Return the mask within each document, causal and within a window or not, (rows, 1, length, length) bool."""
    index = torch.arange(document_ids.shape[1], device=document_ids.device)
    same = document_ids[:, :, None] == document_ids[:, None, :]
    return (same & near(index[:, None], index, causal, window))[:, None] if causal or window else same[:, None]


def _with_prefix(document_ids: torch.Tensor | None, prefix: torch.Tensor) -> torch.Tensor:
    """Return the mask that is within each document, and causal outside its prefix, (rows, 1, length, length) bool."""
    index = torch.arange(prefix.shape[1], device=prefix.device)
    allowed = (index[:, None] >= index[None, :]) | prefix[:, None, :]
    if document_ids is not None:
        allowed &= document_ids[:, :, None] == document_ids[:, None, :]
    return allowed[:, None]


def prompt_mask(ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mask of a prompt whose tokens see each other in both directions, (rows or 1, 1, length, length) bool.

    Args:
        ids: Ids of the prompt, (rows, length).
        attention_mask: False on padding, (rows, length) bool; None where there is none. Padding sees itself, too, so
            that its output stays finite.

    Examples:
        >>> prompt_mask(torch.zeros(1, 2), torch.tensor([[False, True]])).int()[0, 0].tolist()
        [[1, 1], [0, 1]]
    """
    length = ids.shape[1]
    if attention_mask is None:
        return torch.ones(1, 1, length, length, dtype=torch.bool, device=ids.device)
    own = torch.eye(length, dtype=torch.bool, device=ids.device)
    return (attention_mask[:, None, :] | own)[:, None]


def document_bounds(document_ids: torch.Tensor) -> torch.Tensor:
    """Return the place where each document begins in the concatenated rows, followed by the total, (n,) int32.

    These are the cumulative sequence lengths that variable-length attention kernels take. The total is repeated at the
    end: documents without tokens cost nothing, and n takes few different values for rows of one shape, so that a
    compiled graph meets few shapes.

    Args:
        document_ids: Number of the document of each position, (rows, length). Equal neighbours in a row belong to one
            document.

    Examples:
        >>> document_bounds(torch.tensor([[0, 0, 1]]))[:4].tolist()
        [0, 2, 3, 3]
    """
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    starts = begins.flatten().nonzero()[:, 0].to(torch.int32)
    size = max(_FEWEST_BOUNDS, 1 << (document_ids.numel() // _TOKENS_PER_BOUND).bit_length())
    while size < len(starts) + 1:
        size *= _MORE_BOUNDS
    bounds = starts.new_full((size,), document_ids.numel())
    bounds[: len(starts)] = starts
    return bounds


def alibi_slopes(heads: int) -> torch.Tensor:
    """Return the slopes of ALiBi (Press et al. 2021, arXiv 2108.12409, section 3), (heads,).

    They form a geometric sequence. Where the number of heads is not a power of two, the slopes of the next smaller
    power are followed by every second one of the next larger power, as in the code of the paper.

    Args:
        heads: Number of heads.

    Examples:
        >>> alibi_slopes(4).tolist()
        [0.25, 0.0625, 0.015625, 0.00390625]
    """

    def geometric(count: int) -> list[float]:
        start = 2.0 ** (-8.0 / count)
        return [start ** (index + 1) for index in range(count)]

    power = 2 ** math.floor(math.log2(heads))
    slopes = geometric(power)
    if power < heads:
        slopes += geometric(2 * power)[0::2][: heads - power]
    return torch.tensor(slopes)


def alibi_bias(slopes: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, *, causal: bool = True) -> torch.Tensor:
    """Return the bias of ALiBi, -slope * (query position - key position), (rows or 1, heads, queries, keys).

    Without a causal mask it is symmetric, -slope * |query position - key position|, as the authors propose for encoders
    and MosaicBERT has it.

    Args:
        slopes: Slope of each head, (heads,).
        queries: Position of each query, (rows or 1, queries).
        keys: Position of each key, (rows or 1, keys).
        causal: Whether later keys are hidden in any case.
    """
    distance = (queries[:, None, :, None] - keys[:, None, None, :]).to(slopes.dtype)
    return -slopes[None, :, None, None] * (distance if causal else distance.abs())


def allowed_pairs(mask: Mask, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the mask as a dense one, (rows or 1, 1, queries, keys) bool.

    Args:
        mask: Mask, dense or not. Under a plain causal mask the queries are those of the last keys.
        queries: Queries, (rows, heads, queries, size).
        keys: Keys, (rows, kv heads, keys, size).
    """
    if mask.allowed is not None:
        return mask.allowed
    if mask.document_ids is not None:
        return _within_documents(mask.document_ids, mask.causal, mask.window)
    ones = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool, device=queries.device)
    return (ones.tril(keys.shape[2] - queries.shape[2]) if mask.causal else ones)[None, None]


def additive_mask(mask: Mask, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the mask in the form that PyTorch's kernel takes: Boolean, or the bias with -inf where it hides a key.

    Args:
        mask: Mask, dense or not.
        queries: Queries, (rows, heads, queries, size).
        keys: Keys, (rows, kv heads, keys, size).
    """
    allowed = allowed_pairs(mask, queries, keys)
    if mask.bias is None:
        return allowed
    return mask.bias.to(queries.dtype).masked_fill(~allowed, float("-inf"))

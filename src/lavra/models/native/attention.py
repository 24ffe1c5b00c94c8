"""Attention kernels, chosen by device and length; all give the same result for the same mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch.nn import functional as F

from lavra.core.progress import log
from lavra.models.native.agreement import Reference, can_be_compared
from lavra.models.native.attention_masks import Mask, additive_mask, allowed_pairs, document_bounds
from lavra.models.native.attention_products import attend_by_products, suit

PLAIN_LIMIT = 1024
"""Number of keys up to which matrix products and a softmax in a compiled CPU graph are faster than PyTorch's kernel."""

_FEWEST_QUERIES = 128
"""Smallest number of queries of a stripe, and largest number of stripes. More stripes would skip more of the scores
that the causal mask hides, but their smaller products run slower."""
_MOST_STRIPES = 4


Way = Literal["plain", "products", "causal", "whole", "masked", "documents"]
"""Ways to compute attention: with matrix products and a softmax; with these and a backward pass of its own; with
PyTorch's kernel under a causal mask, under none, or under a dense one; with a kernel for documents of different lengths
(variable-length flash attention)."""

_PROOF_ROWS = 2
"""Largest number of rows, of positions and of attention scores on which a way is compared with the plain one."""
_PROOF_LENGTH = 2048
_PROOF_SCORES = 1 << 24

_distrusted: frozenset[str] = frozenset()
"""Ways that were found wrong in this process."""

_proved: set[tuple[Any, ...]] = set()
"""Kinds of input on which a way was compared with the plain one in this process."""


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float = 0.0, cap: float = 0.0
) -> torch.Tensor:
    """Return scaled dot-product attention, softmax(QKᵀ/√size + bias) V, under a mask (Vaswani et al. 2017).

    The fastest way that is available and was found to be right is taken.

    Args:
        queries: Queries, (rows, heads, length, size).
        keys: Keys, (rows, kv heads, keys, size). Fewer heads than those of the queries are shared by groups of them
            (grouped-query attention).
        values: Values, (rows, kv heads, keys, size).
        mask: Mask of the keys that each query attends to. Under a plain causal mask the queries are those of the last
            keys.
        dropout: Probability with which an attention weight is dropped.
        cap: Bound of the scores before the bias, which become cap · tanh(scores / cap); 0 sets none. No kernel has one,
            so that the plain way is taken.

    Returns:
        The mixed values, (rows, heads, length, size).

    Examples:
        The first query sees only the first key, and the second sees both:

        >>> same = torch.ones(1, 1, 2, 4)
        >>> values = torch.tensor([[[[0.0] * 4, [1.0] * 4]]])
        >>> attend(same, same, values, Mask())[0, 0, :, 0].tolist()
        [0.0, 0.5]
    """
    if cap:
        return WAYS["plain"](queries, keys, values, mask, dropout, cap)
    way = choose_way(queries, keys, mask, dropout)
    # For one token per row on a CPU, `decode_step` compares the whole block instead: here even the question costs time.
    if not torch.compiler.is_compiling() and (queries.shape[2] > 1 or queries.device.type != "cpu"):
        prove_way(way, queries, keys, values, mask)
        way = choose_way(queries, keys, mask, dropout)
    return WAYS[way](queries, keys, values, mask, dropout)


def choose_way(queries: torch.Tensor, keys: torch.Tensor, mask: Mask, dropout: float = 0.0) -> Way:
    """Return the fastest way to compute attention that fits the mask and was not found wrong.

    Args:
        queries: Queries, see `attend`.
        keys: Keys, see `attend`.
        mask: Mask, see `attend`.
        dropout: Probability with which an attention weight is dropped.
    """
    if not dropout and queries.device.type == "cpu" and _plain_is_faster(queries, keys):
        return "plain"
    if mask.bounds is not None and not dropout and queries.shape[2] == keys.shape[2] and trusts("documents"):
        return "documents"
    if not dropout and trusts("products") and suit(queries, keys, mask):
        return "products"
    bare = mask.allowed is None and mask.bias is None and mask.document_ids is None
    if bare and not mask.causal:
        return "whole" if trusts("whole") or dropout else "plain"
    if bare and queries.shape[2] in (1, keys.shape[2]):
        return "causal" if trusts("causal") or dropout else "plain"
    return "masked" if trusts("masked") or dropout else "plain"


def _by_documents(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float
) -> torch.Tensor:
    """Attend document by document with variable-length flash attention, which skips scores between documents."""
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, size = queries.shape
    flat = [part.transpose(1, 2).reshape(rows * length, part.shape[1], size) for part in (queries, keys, values)]
    flat_queries, flat_keys, flat_values = flat
    before = mask.window or -1  # -1 sets no limit
    window = before, 0 if mask.causal else before
    bounds, options = mask.bounds, {"window_size": window, "enable_gqa": heads != keys.shape[1]}
    assert bounds is not None
    mixed: Any = varlen_attn(flat_queries, flat_keys, flat_values, bounds, bounds, length, length, **options)
    return mixed.view(rows, length, heads, size).transpose(1, 2)


def _by_library(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float
) -> torch.Tensor:
    """Attend with PyTorch's kernel for a causal mask, or for none."""
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        dropout_p=dropout,
        is_causal=mask.causal and queries.shape[2] > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


def _by_library_masked(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float
) -> torch.Tensor:
    """Attend with PyTorch's kernel under a dense mask."""
    grouped = queries.shape[1] != keys.shape[1]
    if grouped and queries.device.type == "cuda":  # no CUDA kernel takes a mask and shares keys among heads
        keys, values = _repeated(keys, queries.shape[1]), _repeated(values, queries.shape[1])
        grouped = False
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=additive_mask(mask, queries, keys),
        dropout_p=dropout,
        enable_gqa=grouped,
    )


def _repeated(heads: torch.Tensor, count: int) -> torch.Tensor:
    """Return keys or values with one head for each of the `count` query heads."""
    return heads.repeat_interleave(count // heads.shape[1], 1)


def _plain_is_faster(queries: torch.Tensor, keys: torch.Tensor) -> bool:
    """Return whether matrix products and a softmax are faster than PyTorch's CPU kernel.

    They are in a compiled graph with few keys, and for the one query of generation in bf16, where they took from a
    third to three quarters of the kernel's time.
    """
    if torch.compiler.is_compiling():
        return keys.shape[2] <= PLAIN_LIMIT
    return queries.shape[2] == 1 and queries.dtype == torch.bfloat16


def attend_plainly(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float = 0.0, cap: float = 0.0
) -> torch.Tensor:
    """Return the same as `attend`, computed with matrix products and a softmax.

    Args:
        queries: Queries, (rows, heads, length, size).
        keys: Keys, (rows, kv heads, keys, size).
        values: Values, (rows, kv heads, keys, size).
        mask: Mask, see `attend`.
        dropout: Probability with which an attention weight is dropped.
        cap: Bound of the scores, see `attend`.
    """
    if queries.shape[1] != keys.shape[1]:
        keys, values = _repeated(keys, queries.shape[1]), _repeated(values, queries.shape[1])
    bare = mask.allowed is None and mask.document_ids is None
    unmasked = bare and (queries.shape[2] == 1 or not mask.causal)
    allowed = None if unmasked else allowed_pairs(mask, queries, keys)
    stripes = []
    for queried, seen in _stripes(queries.shape[2], keys.shape[2], mask.causal):
        scores = (queries[:, :, queried] @ keys[:, :, seen].transpose(-1, -2)) * queries.shape[-1] ** -0.5
        if cap:
            scores = cap * torch.tanh(scores / cap)
        if mask.bias is not None:
            scores = scores + mask.bias[..., queried, seen].to(scores.dtype)
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, :, queried, seen], float("-inf"))
        weights = scores.softmax(-1)
        stripes.append((F.dropout(weights, dropout) if dropout else weights) @ values[:, :, seen])
    return stripes[0] if len(stripes) == 1 else torch.cat(stripes, 2)


def _stripes(queries: int, keys: int, causal: bool) -> list[tuple[slice, slice]]:
    """Return stripes of queries, each with the keys that any query of the stripe can see.

    Under a causal mask about half of the scores are hidden; stripes skip most of those.
    """
    if queries != keys or not causal:
        return [(slice(None), slice(None))]
    size = max(_FEWEST_QUERIES, -(-queries // _MOST_STRIPES))
    return [(slice(start, start + size), slice(0, start + size)) for start in range(0, queries, size)]


WAYS: dict[str, Callable[..., torch.Tensor]] = {
    "plain": attend_plainly,
    "products": attend_by_products,
    "causal": _by_library,
    "whole": _by_library,
    "masked": _by_library_masked,
    "documents": _by_documents,
}


def trusts(way: Way) -> bool:
    """Return whether a way may be used, because it was not found wrong.

    Args:
        way: Way to compute attention.
    """
    return way not in _distrusted


def distrusted_ways() -> tuple[str, ...]:
    """Return the names of the ways that are no longer used in this process, sorted."""
    return tuple(sorted(_distrusted))


def trust_again() -> None:
    """Give every way another chance, as a process has it that was started anew."""
    global _distrusted
    _distrusted = frozenset()


def distrust(*ways: str) -> None:
    """Stop using ways for the rest of the process.

    Args:
        *ways: Names of the ways.
    """
    global _distrusted
    _distrusted |= frozenset(ways)


@contextmanager
def attending_plainly() -> Iterator[None]:
    """Compute attention with matrix products and a softmax during the block, wherever there is no dropout."""
    global _distrusted
    before, _distrusted = _distrusted, frozenset(WAYS) - {"plain"}
    try:
        yield
    finally:
        _distrusted = before


def takes_documents(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Return whether attention over documents of different lengths needs no dense mask.

    Args:
        device: Device that computes.
        dtype: Type of queries, keys and values.
        size: Size of a head.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or size > 256 or size % 8:
        return False
    return trusts("documents") and _has_kernel_for_documents(device)


@cache
def _has_kernel_for_documents(device: torch.device) -> bool:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return find_spec("torch.nn.attention.varlen") is not None


def prove_way(way: Way, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask) -> None:
    """Compare a way with the plain one on the given input, and stop using it if it is wrong.

    The comparison is made once for each kind of input: device, type, numbers of heads, size of a head, and whether
    there is a backward pass.

    Args:
        way: Way to compute attention.
        queries: Queries, see `attend`.
        keys: Keys, see `attend`.
        values: Values, see `attend`.
        mask: Mask, see `attend`.
    """
    backward = torch.is_grad_enabled() and (queries.shape[2] == keys.shape[2] or not mask.causal)
    heads = queries.shape[1:2], keys.shape[1:2], queries.shape[3]
    kind = (way, queries.device.type, queries.dtype, *heads, backward, mask.causal, mask.window > 0)
    if way == "plain" or kind in _proved or not can_be_compared(queries):
        return
    _proved.add(kind)
    wrong = wrong_way(way, queries, keys, values, mask, backward=backward)
    if wrong is not None:
        distrust(way)
        log(f"attention: the kernel '{way}' is wrong on this device ({wrong}); the plain way is taken instead")


def wrong_way(
    way: Way,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: Mask,
    *,
    backward: bool = True,
) -> str | None:
    """Return what is wrong with a way on the given input, as a clause, or None if nothing is.

    The exact result is that of the plain way in fp32. How far the plain way is from it in the type of the input decides
    how far the other way may be.

    Args:
        way: Way to compute attention.
        queries: Queries, see `attend`.
        keys: Keys, see `attend`.
        values: Values, see `attend`.
        mask: Mask, see `attend`.
        backward: Whether the gradients are compared too.
    """
    given, mask = _part(queries, keys, values, mask)
    with torch.inference_mode(False), torch.enable_grad():
        direction = torch.randn(given[0].shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")

        def results(function: Callable[..., torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
            parts = [part.detach().clone().to(dtype).requires_grad_(backward) for part in given]
            mixed = function(*parts, mask, 0.0)
            found = {"what attention returns": mixed.detach()}
            if backward:
                mixed.backward(direction.to(mixed))
                for name, part in zip(("queries", "keys", "values"), parts, strict=True):
                    if part.grad is not None:
                        found[f"the gradient of the {name}"] = part.grad
            return found

        wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
        reference = Reference(results(attend_plainly, wide), results(attend_plainly, queries.dtype), queries.dtype)
        try:
            return reference.disagreement(results(WAYS[way], queries.dtype))
        except (RuntimeError, NotImplementedError, ImportError) as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _part(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], Mask]:
    """Return the first rows and positions, enough for a comparison; what they see among themselves is compared.

    A bias that is learned gets no gradient from it.
    """
    if mask.bias is not None:
        mask = replace(mask, bias=mask.bias.detach())
    if queries.shape[2] != keys.shape[2]:
        return (queries, keys, values), mask
    length = min(queries.shape[2], _PROOF_LENGTH, math.isqrt(_PROOF_SCORES // queries.shape[1]))
    rows = max(1, min(len(queries), _PROOF_ROWS, _PROOF_SCORES // (queries.shape[1] * length**2)))
    document_ids = None if mask.document_ids is None else mask.document_ids[:rows, :length]
    allowed = None if mask.allowed is None else mask.allowed[:rows, :, :length, :length]
    bias = mask.bias
    if bias is not None:
        bias = bias[..., :length, :length] if bias.dim() == 3 else bias[:rows, :, :length, :length]
    bounds = None if document_ids is None or mask.bounds is None else document_bounds(document_ids)
    part = tuple(tensor[:rows, :, :length] for tensor in (queries, keys, values))
    return part, Mask(allowed, bias, document_ids, bounds, mask.causal, mask.window)  # pyright: ignore[reportReturnType]


# The scores of attention, for those who watch how large they become.


@contextmanager
def watching_scores(see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Compute attention plainly during the block, and show the largest score of each call before the softmax.

    Args:
        see: Function that takes the largest score of an attention over all rows, heads and pairs of positions that see
            each other, () float32.
    """

    def watched(
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: Mask,
        dropout: float = 0.0,
        cap: float = 0.0,
    ) -> torch.Tensor:
        see(largest_score(queries, keys, mask, cap))
        return attend_plainly(queries, keys, values, mask, dropout, cap)

    with attending_plainly():
        WAYS["plain"] = watched
        try:
            yield
        finally:
            WAYS["plain"] = attend_plainly


def largest_score(queries: torch.Tensor, keys: torch.Tensor, mask: Mask, cap: float = 0.0) -> torch.Tensor:
    """Return the largest score before the softmax, () float32.

    Args:
        queries: Queries, (rows, heads, length, size).
        keys: Keys, (rows, kv heads, keys, size).
        mask: Mask, see `attend`.
        cap: Bound of the scores, see `attend`.
    """
    if queries.shape[1] != keys.shape[1]:
        keys = _repeated(keys, queries.shape[1])
    allowed = allowed_pairs(mask, queries, keys)
    scores = (queries @ keys.transpose(-1, -2)).float() * queries.shape[-1] ** -0.5
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if mask.bias is not None:
        scores = scores + mask.bias
    return scores.masked_fill(~allowed, float("-inf")).amax()

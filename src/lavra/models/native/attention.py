"""Attention kernels, chosen by device and length; all give the same result for the same mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch.nn import functional as F

from lavra.core.progress import say
from lavra.models.native.agreement import Reference, can_be_compared
from lavra.models.native.attention_masks import Mask, additive_mask, allowed_pairs, document_bounds

PLAIN_LIMIT = 1024
"""Up to this many keys, products and a softmax in a compiled CPU graph are faster than the library's kernel."""

_FEWEST_QUERIES, _MOST_STRIPES = 128, 4
"""Queries of a stripe at least, and stripes of a row at most: more would leave out more, and run slower."""


Way = Literal["plain", "causal", "masked", "documents"]
"""How attention is computed: products and a softmax; the library's kernel under a causal mask, or under a dense one;
a kernel for documents of different lengths."""

_PROOF_ROWS, _PROOF_LENGTH, _PROOF_SCORES = 2, 2048, 1 << 24
"""Rows, positions and scores of all heads that a proof looks at, at most."""

_distrusted: frozenset[str] = frozenset()
_proved: set[tuple[Any, ...]] = set()


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
    way = choose_way(queries, keys, mask, dropout)
    # One token a row on a CPU is left to the proof of generation's steps: here even asking would take time.
    if not torch.compiler.is_compiling() and (queries.shape[2] > 1 or queries.device.type != "cpu"):
        prove_way(way, queries, keys, values, mask)
        way = choose_way(queries, keys, mask, dropout)
    return WAYS[way](queries, keys, values, mask, dropout)


def choose_way(queries: torch.Tensor, keys: torch.Tensor, mask: Mask, dropout: float = 0.0) -> Way:
    """Return the fastest way to attend that fits and is trusted."""
    if not dropout and queries.device.type == "cpu" and _plain_is_faster(queries, keys):
        return "plain"
    if mask.bounds is not None and not dropout and queries.shape[2] == keys.shape[2] and trusts("documents"):
        return "documents"
    bare = mask.allowed is None and mask.bias is None and mask.segments is None
    if bare and queries.shape[2] in (1, keys.shape[2]):
        return "causal" if trusts("causal") or dropout else "plain"
    return "masked" if trusts("masked") or dropout else "plain"


def _by_documents(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float
) -> torch.Tensor:
    """Attend document by document, whose scores alone are computed (flash attention for different lengths)."""
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, size = queries.shape
    flat = [part.transpose(1, 2).reshape(rows * length, part.shape[1], size) for part in (queries, keys, values)]
    flat_queries, flat_keys, flat_values = flat
    bounds, options = mask.bounds, {"window_size": (-1, 0), "enable_gqa": heads != keys.shape[1]}
    assert bounds is not None
    mixed: Any = varlen_attn(flat_queries, flat_keys, flat_values, bounds, bounds, length, length, **options)
    return mixed.view(rows, length, heads, size).transpose(1, 2)


def _by_library(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float
) -> torch.Tensor:
    """Attend by the library's kernel for a causal mask."""
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        dropout_p=dropout,
        is_causal=queries.shape[2] > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


def _by_library_masked(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float
) -> torch.Tensor:
    """Attend by the library's kernel with a dense mask."""
    grouped = queries.shape[1] != keys.shape[1]
    if grouped and queries.device.type == "cuda":  # of the kernels that take a mask, none shares keys among heads
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
    """Whether products and a softmax beat the library's CPU kernel: compiled, or for the one query of generation.

    For one query in bf16 they took from a third to three quarters of the kernel's time.
    """
    if torch.compiler.is_compiling():
        return keys.shape[2] <= PLAIN_LIMIT
    return queries.shape[2] == 1 and queries.dtype == torch.bfloat16


def attend_plainly(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask, dropout: float = 0.0
) -> torch.Tensor:
    """Return what `attend` does by products and a softmax; `dropout` has no effect here."""
    if queries.shape[1] != keys.shape[1]:
        keys, values = _repeated(keys, queries.shape[1]), _repeated(values, queries.shape[1])
    unmasked = mask.allowed is None and mask.segments is None and queries.shape[2] == 1
    allowed = None if unmasked else allowed_pairs(mask, queries, keys)
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


WAYS: dict[str, Callable[..., torch.Tensor]] = {
    "plain": attend_plainly,
    "causal": _by_library,
    "masked": _by_library_masked,
    "documents": _by_documents,
}


def trusts(way: Way) -> bool:
    """Say whether a way may be taken."""
    return way not in _distrusted


def distrusted_ways() -> tuple[str, ...]:
    """Return the ways that were given up in this process."""
    return tuple(sorted(_distrusted))


def distrust(*ways: str) -> None:
    """Give ways up for the rest of the process."""
    global _distrusted
    _distrusted |= frozenset(ways)


@contextmanager
def attending_plainly() -> Iterator[None]:
    """Attend by products and a softmax during the block, wherever there is no dropout."""
    global _distrusted
    before, _distrusted = _distrusted, frozenset(WAYS) - {"plain"}
    try:
        yield
    finally:
        _distrusted = before


def takes_documents(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Say whether documents of different lengths can be attended to without a dense mask.

    Args:
        device: that computes.
        dtype: of queries, keys and values.
        size: of a head.
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
    """Compare a way with the plain one on what it is about to compute, once a kind, and give it up if it is wrong."""
    backward = torch.is_grad_enabled() and queries.shape[2] == keys.shape[2]
    kind = (way, queries.device.type, queries.dtype, queries.shape[1:2], keys.shape[1:2], queries.shape[3], backward)
    if way == "plain" or kind in _proved or not can_be_compared(queries):
        return
    _proved.add(kind)
    wrong = wrong_way(way, queries, keys, values, mask, backward=backward)
    if wrong is not None:
        distrust(way)
        say(f"attention: the kernel '{way}' is wrong on this device ({wrong}); the plain way is taken instead")


def wrong_way(
    way: Way,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: Mask,
    *,
    backward: bool = True,
) -> str | None:
    """Return in words what is wrong with a way on these queries, keys and values; None if nothing is.

    Args:
        way: to be proved, against the plain one in fp32; how far the plain one is in their own type sets the measure.
        queries: see `attend`.
        keys: see `attend`.
        values: see `attend`.
        mask: see `attend`.
        backward: whether the gradients are compared too.
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
    """Return the first rows and positions, enough for a proof; none of them sees what is left out."""
    if queries.shape[2] != keys.shape[2]:
        return (queries, keys, values), mask
    length = min(queries.shape[2], _PROOF_LENGTH, math.isqrt(_PROOF_SCORES // queries.shape[1]))
    rows = max(1, min(len(queries), _PROOF_ROWS, _PROOF_SCORES // (queries.shape[1] * length**2)))
    segments = None if mask.segments is None else mask.segments[:rows, :length]
    allowed = None if mask.allowed is None else mask.allowed[:rows, :, :length, :length]
    bias = mask.bias
    if bias is not None:
        bias = bias[..., :length, :length] if bias.dim() == 3 else bias[:rows, :, :length, :length]
    bounds = None if segments is None or mask.bounds is None else document_bounds(segments)
    part = tuple(tensor[:rows, :, :length] for tensor in (queries, keys, values))
    return part, Mask(allowed, bias, segments, bounds)  # pyright: ignore[reportReturnType]

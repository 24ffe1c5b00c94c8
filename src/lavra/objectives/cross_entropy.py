"""Cross-entropy from features, a chunk of tokens at a time, so that the logits of a batch never exist at once.

The gradient is computed beside the loss in the forward pass (as in cut cross-entropy, arXiv 2411.09009): a chunk's
logits are made, used for both, and dropped. Memory is one chunk of logits instead of the whole batch's three times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

from lavra.models.contract import IGNORED

CPU_CHUNK_BYTES = 16 << 20
GPU_CHUNK_BYTES = 512 << 20
FEWEST_TOKENS = 256
"""Tokens below which the products are slow, and the gradient of a large head is read and written too often."""


def chunk_length(vocabulary: int, device: torch.device) -> int:
    """Return how many tokens' float32 logits fit the chunk: 16 MiB (the cache of a CPU) or 512 MiB (a GPU)."""
    budget = CPU_CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES
    return max(FEWEST_TOKENS, budget // (4 * vocabulary))


def _chunk_logits(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, vocabulary: int, cap: float | None
) -> torch.Tensor:
    """Return the chunk's logits in the weight's type, bent where the model does so, minus infinity for padding rows."""
    logits = F.linear(features, weight, bias)
    if cap is not None:
        logits = logits.div_(cap).tanh_().mul_(cap)
    if vocabulary < weight.shape[0]:
        logits[:, vocabulary:] = float("-inf")
    return logits


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which losses are computed and summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def token_losses(
    features: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    vocabulary: int | None = None,
    cap: float | None = None,
) -> torch.Tensor:
    """Return the (tokens,) float32 negative log-likelihood of each target in nats, 0 where ignored; no gradient.

    Args:
        features: (tokens, width).
        weight: (padded vocabulary, width) of the head.
        targets: (tokens,) ids or `IGNORED`.
        bias: (padded vocabulary,) of the head.
        vocabulary: rows of `weight` that are real; the others have probability zero. None: all.
        cap: logits are bent to cap · tanh(logits / cap), as Gemma 2 does; None leaves them as they are.
    """
    vocabulary = vocabulary or weight.shape[0]
    size = chunk_length(weight.shape[0], features.device)
    losses = []
    with torch.no_grad():
        for start in range(0, features.shape[0], size):
            chunk = features[start : start + size]
            logits = _chunk_logits(chunk, weight, bias, vocabulary, cap).to(_wide(weight.dtype))
            losses.append(
                F.cross_entropy(logits, targets[start : start + size], ignore_index=IGNORED, reduction="none")
            )
    return torch.cat(losses) if losses else features.new_zeros(0, dtype=torch.float32)


def _loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the chunk's summed loss and the gradient at its logits, in their type.

    With q = (1-s)·onehot + s/V, the loss is -Σ q·log p and its gradient p - q (Szegedy et al. 2016 §7).
    """
    kept = targets != IGNORED
    index = targets.clamp(min=0)[:, None]
    log_p = torch.log_softmax(logits, -1, dtype=_wide(logits.dtype))
    expected = log_p.gather(1, index)
    if smoothing:
        expected = (1 - smoothing) * expected + smoothing * log_p[:, :vocabulary].mean(-1, keepdim=True)
    loss = -(expected.squeeze(1) * kept).sum()
    gradient = log_p.exp_()
    if smoothing:
        gradient[:, :vocabulary] -= smoothing / vocabulary
    gradient.scatter_add_(1, index, torch.full_like(expected, smoothing - 1.0))
    if logits.device.type != "cpu" or not bool(kept.all()):  # on a CPU, asking is cheaper than one more pass
        gradient *= kept[:, None]
    return loss, gradient.to(logits.dtype)


def _without_target(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the chunk's summed loss, its gradient except at the targets, and (tokens, 1) the gradient there.

    Written for the compiler, which makes one loop of it: a row is read from the cache for its largest logit, for the
    sum and for the gradient, and nothing wide is ever stored. Eagerly it would take longer than `_loss_and_gradient`.
    """
    wide = logits.to(_wide(logits.dtype))
    kept = (targets != IGNORED)[:, None]
    largest = wide.amax(-1, keepdim=True)
    normalizer = largest + (wide - largest).exp().sum(-1, keepdim=True).log()
    log_p = wide.gather(1, targets.clamp(min=0)[:, None]) - normalizer
    gradient = (wide - normalizer).exp() * kept
    at_target = (log_p.exp() - 1.0) * kept
    return -(log_p * kept).sum(), gradient.to(logits.dtype), at_target.to(logits.dtype)


@cache
def _compiled() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return torch.compile(_without_target, dynamic=False)


def _compiled_loss_and_gradient(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `_loss_and_gradient` does without smoothing, in a third of the time on a CPU."""
    loss, gradient, at_target = _compiled()(logits, targets)
    return loss, gradient.scatter_(1, targets.clamp(min=0)[:, None], at_target)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        vocabulary: int,
        smoothing: float,
        compiled: bool,
        cap: float | None,
    ) -> torch.Tensor:
        size = chunk_length(weight.shape[0], features.device)
        wide = _wide(weight.dtype)
        total = torch.zeros((), dtype=wide, device=features.device)
        feature_gradient = torch.empty_like(features)
        # A frozen head (adapters) is spared the largest product of all.
        weight_gradient = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        bias_gradient = torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[2] else None
        for start in range(0, features.shape[0], size):
            chunk = features[start : start + size]
            logits = _chunk_logits(chunk, weight, bias, vocabulary, cap)
            slope = None if cap is None else 1 - (logits[:, :vocabulary] / cap).square()
            ids = targets[start : start + size]
            if compiled and not smoothing:
                loss, gradient = _compiled_loss_and_gradient(logits, ids)
            else:
                loss, gradient = _loss_and_gradient(logits, ids, smoothing, vocabulary)
            total += loss
            if slope is not None:  # of cap · tanh(x / cap), by its value
                gradient[:, :vocabulary] *= slope
            torch.mm(gradient, weight, out=feature_gradient[start : start + size])
            if weight_gradient is not None:
                weight_gradient += gradient.t() @ chunk
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0)
        ctx.save_for_backward(feature_gradient, weight_gradient, bias_gradient)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        scale = gradients[0]
        features, weight, bias = ctx.saved_tensors
        weight = None if weight is None else (weight * scale).to(ctx.dtype)
        bias = None if bias is None else (bias * scale).to(ctx.dtype)
        return features * scale, weight, bias, None, None, None, None, None


def summed_cross_entropy(
    features: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    vocabulary: int | None = None,
    label_smoothing: float = 0.0,
    compiled: bool = False,
    cap: float | None = None,
) -> torch.Tensor:
    """Return the () summed cross-entropy in nats over the targets that are not ignored, with gradient.

    Args:
        features: (tokens, width).
        weight: (padded vocabulary, width) of the head.
        targets: (tokens,) ids or `IGNORED`.
        bias: (padded vocabulary,) of the head.
        vocabulary: rows of `weight` that are real; the others get probability zero. None: all.
        label_smoothing: share of the target's probability that is spread over the vocabulary; 0 is none.
        compiled: whether what is done with the logits may be compiled, once for each number of tokens in a chunk.
        cap: logits are bent to cap · tanh(logits / cap), as Gemma 2 does; None leaves them as they are.
    """
    vocabulary = vocabulary or weight.shape[0]
    learned = (part for part in (features, weight, bias) if part is not None)
    if not label_smoothing and not (torch.is_grad_enabled() and any(part.requires_grad for part in learned)):
        return token_losses(features, weight, targets, bias=bias, vocabulary=vocabulary, cap=cap).sum()
    return _ChunkedCrossEntropy.apply(features, weight, bias, targets, vocabulary, label_smoothing, compiled, cap)  # pyright: ignore[reportReturnType]

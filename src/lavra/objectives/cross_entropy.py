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

from lavra.models.protocols import IGNORED

CPU_CHUNK_BYTES = 16 << 20
"""Bytes of float32 logits that a chunk holds on a CPU (16 MiB): they should stay in the last cache."""

GPU_CHUNK_BYTES = 512 << 20
"""Bytes of float32 logits that a chunk holds on a GPU (512 MiB): large products keep it busy."""

FEWEST_TOKENS = 256
"""Smallest chunk in tokens. With fewer, the matrix products are slow and the gradient of a large head is read and
written too often."""


def chunk_length(vocabulary: int, device: torch.device) -> int:
    """Return the number of tokens in a chunk: as many as have their float32 logits in 16 MiB (CPU) or 512 MiB (GPU).

    Args:
        vocabulary: Logits of each token.
        device: Device that computes the logits.

    Examples:
        >>> chunk_length(8192, torch.device("cpu"))
        512
    """
    budget = CPU_CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES
    return max(FEWEST_TOKENS, budget // (4 * vocabulary))


def chunk_logits(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, vocabulary: int, cap: float | None
) -> torch.Tensor:
    """Return the chunk's logits in the weight's type, capped where the model does so; minus infinity for padding."""
    logits = F.linear(features, weight, bias)
    if cap is not None:
        logits = logits.div_(cap).tanh_().mul_(cap)
    if vocabulary < weight.shape[0]:
        logits[:, vocabulary:] = float("-inf")
    return logits


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which losses are computed and summed: float32, or float64 where the weights are float64."""
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
    """Return the (tokens,) float32 negative log-likelihood of each target in nats, without a gradient.

    Args:
        features: Hidden states, (tokens, width).
        weight: Weight of the head, (padded vocabulary, width).
        targets: Target ids, (tokens,). A token whose target is `IGNORED` gets 0.
        bias: Bias of the head, (padded vocabulary,), or None.
        vocabulary: Number of rows of `weight` that stand for tokens. The rows after them are padding and have
            probability zero. None means that no row is padding.
        cap: Bound of the logits: they become cap · tanh(logits / cap), as in Gemma 2. None leaves them as they are.

    Examples:
        Equal logits for four tokens cost ln 4 = 1.386 nats:

        >>> losses = token_losses(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([1, IGNORED]))
        >>> [round(loss, 3) for loss in losses.tolist()]
        [1.386, 0.0]
    """
    vocabulary = vocabulary or weight.shape[0]
    size = chunk_length(weight.shape[0], features.device)
    losses = []
    with torch.no_grad():
        for start in range(0, features.shape[0], size):
            chunk = features[start : start + size]
            logits = chunk_logits(chunk, weight, bias, vocabulary, cap).to(wide_type(weight.dtype))
            losses.append(
                F.cross_entropy(logits, targets[start : start + size], ignore_index=IGNORED, reduction="none")
            )
    return torch.cat(losses) if losses else features.new_zeros(0, dtype=torch.float32)


def _loss_and_gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    smoothing: float,
    vocabulary: int,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the chunk's summed loss and the gradient of that loss with respect to the logits, in their type.

    Label smoothing s mixes the target with the uniform distribution: q = (1-s)·onehot + s/V. The loss is -Σ q·log p,
    and its gradient with respect to the logits is p - q (Szegedy et al. 2016, section 7).

    The z-loss z·(log Z)², where Z is the softmax normaliser, has the gradient 2z·log Z·p (PaLM, arXiv 2204.02311,
    section 5).
    """
    kept = _factors(targets, weights)
    index = targets.clamp(min=0)[:, None]
    log_p = torch.log_softmax(logits, -1, dtype=wide_type(logits.dtype))
    expected = log_p.gather(1, index)
    log_z = logits.gather(1, index).to(log_p.dtype) - expected if z_loss else None
    if smoothing:
        expected = (1 - smoothing) * expected + smoothing * log_p[:, :vocabulary].mean(-1, keepdim=True)
    loss = -(expected.squeeze(1) * kept).sum()
    gradient = log_p.exp_()
    if log_z is not None:
        loss = loss + z_loss * (log_z.squeeze(1).square() * kept).sum()
        gradient *= 1.0 + 2.0 * z_loss * log_z
    if smoothing:
        gradient[:, :vocabulary] -= smoothing / vocabulary
    gradient.scatter_add_(1, index, torch.full_like(expected, smoothing - 1.0))
    if weights is not None or logits.device.type != "cpu" or not bool(kept.all()):  # asking a CPU is a pass less
        gradient *= kept[:, None]
    return loss, gradient.to(logits.dtype)


def _factors(targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return what each token's loss is multiplied by, (tokens,): its weight where it has a target, and otherwise 0."""
    kept = targets != IGNORED
    return kept if weights is None else weights.where(kept, 0.0)


def _without_target(
    logits: torch.Tensor, targets: torch.Tensor, factors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the chunk's summed loss, its gradient except at the targets, and the (tokens, 1) gradient at the targets.

    The function is written for the compiler, which makes one loop of it: the logits of a token stay in the cache while
    they are read for their maximum, for the sum of exponentials and for the gradient, and no float32 copy is stored.
    Without the compiler it takes longer than `_loss_and_gradient`.
    """
    wide = logits.to(wide_type(logits.dtype))
    kept = factors[:, None]
    largest = wide.amax(-1, keepdim=True)
    normalizer = largest + (wide - largest).exp().sum(-1, keepdim=True).log()
    log_p = wide.gather(1, targets.clamp(min=0)[:, None]) - normalizer
    gradient = (wide - normalizer).exp() * kept
    at_target = (log_p.exp() - 1.0) * kept
    return -(log_p * kept).sum(), gradient.to(logits.dtype), at_target.to(logits.dtype)


@cache
def _compiled() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return torch.compile(_without_target, dynamic=False)


def _compiled_loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same as `_loss_and_gradient` without smoothing, in a third of the time on a CPU."""
    # One graph for both, so that weights of one give the bits of no weights.
    factors = _factors(targets, weights).to(wide_type(logits.dtype))
    loss, gradient, at_target = _compiled()(logits, targets, factors)
    return loss, gradient.scatter_(1, targets.clamp(min=0)[:, None], at_target)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Linear head and cross-entropy as one function, whose forward pass computes the gradients too.

    A chunk's logits are needed for the loss and for its gradient. Both are taken while the logits are there, so that
    the backward pass only has to scale what is kept: gradients of the size of the features and of the head.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        vocabulary: int,
        smoothing: float,
        compiled: bool,
        cap: float | None,
        z_loss: float,
    ) -> torch.Tensor:
        size = chunk_length(weight.shape[0], features.device)
        wide = wide_type(weight.dtype)
        total = torch.zeros((), dtype=wide, device=features.device)
        feature_gradient = torch.empty_like(features)
        # Where the head is frozen, as with adapters, its gradient, the largest product of all, is not computed.
        weight_gradient = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        bias_gradient = torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[2] else None
        for start in range(0, features.shape[0], size):
            chunk = features[start : start + size]
            logits = chunk_logits(chunk, weight, bias, vocabulary, cap)
            slope = None if cap is None else 1 - (logits[:, :vocabulary] / cap).square()
            ids = targets[start : start + size]
            factors = None if weights is None else weights[start : start + size]
            if compiled and not smoothing and not z_loss:
                loss, gradient = _compiled_loss_and_gradient(logits, ids, factors)
            else:
                loss, gradient = _loss_and_gradient(logits, ids, factors, smoothing, vocabulary, z_loss)
            total += loss
            if slope is not None:  # chain rule: y = cap · tanh(x / cap) has the derivative 1 - (y / cap)²
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
        return features * scale, weight, bias, None, None, None, None, None, None, None


def summed_cross_entropy(
    features: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    vocabulary: int | None = None,
    label_smoothing: float = 0.0,
    compiled: bool = False,
    cap: float | None = None,
    z_loss: float = 0.0,
) -> torch.Tensor:
    """Return the () summed cross-entropy in nats over the targets that are not ignored, with a gradient.

    The logits of the whole batch never exist at once: they are made, used and dropped a chunk of tokens at a time.

    Args:
        features: Hidden states, (tokens, width).
        weight: Weight of the head, (padded vocabulary, width).
        targets: Target ids, (tokens,). A token whose target is `IGNORED` adds nothing.
        bias: Bias of the head, (padded vocabulary,), or None.
        weights: Factor on the loss of each target, (tokens,) float32, without a gradient; None multiplies by nothing,
            and factors of one give the same bits.
        vocabulary: Number of rows of `weight` that stand for tokens. The rows after them are padding and have
            probability zero. None means that no row is padding.
        label_smoothing: Share of the target's probability that is spread over the vocabulary; 0 is the plain
            cross-entropy.
        compiled: Whether the computation on the logits may be compiled, once for each number of tokens in a chunk. It
            has no effect together with label smoothing or z-loss.
        cap: Bound of the logits: they become cap · tanh(logits / cap), as in Gemma 2. None leaves them as they are.
        z_loss: Weight of the squared logarithm of the softmax normaliser, which is added for each target while there is
            a gradient; 0 is the plain cross-entropy.

    Returns:
        A () tensor, float32 (float64 where the weight is float64).

    Examples:
        Equal logits for four tokens cost ln 4 = 1.386 nats for each of the two targets that count:

        >>> features, head = torch.zeros(3, 2), torch.zeros(4, 2, requires_grad=True)
        >>> loss = summed_cross_entropy(features, head, torch.tensor([1, IGNORED, 3]))
        >>> round(loss.item(), 3)
        2.773
        >>> loss.backward()
        >>> head.grad.shape
        torch.Size([4, 2])
    """
    vocabulary = vocabulary or weight.shape[0]
    learned = (part for part in (features, weight, bias) if part is not None)
    if not label_smoothing and not (torch.is_grad_enabled() and any(part.requires_grad for part in learned)):
        losses = token_losses(features, weight, targets, bias=bias, vocabulary=vocabulary, cap=cap)
        return losses.sum() if weights is None else (losses * _factors(targets, weights)).sum()
    return _ChunkedCrossEntropy.apply(  # pyright: ignore[reportReturnType]
        features, weight, bias, targets, weights, vocabulary, label_smoothing, compiled, cap, z_loss
    )

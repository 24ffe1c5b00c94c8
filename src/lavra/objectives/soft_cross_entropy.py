"""Cross-entropy against soft targets, a chunk of tokens at a time: given probabilities, or those of a teacher's head.

As in `lavra.objectives.cross_entropy`, the gradient is computed beside the loss in the forward pass, so that neither
the pupil's logits nor the teacher's are ever held for more than one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from lavra.objectives.cross_entropy import chunk_length, chunk_logits, wide_type

SoftTargets = torch.Tensor | Callable[[slice], torch.Tensor]
"""Probabilities of the targets, (tokens, classes), or a function from a slice of the tokens to theirs."""

Divergence = Literal["cross-entropy", "kl"]
"""What is summed: the cross-entropy -Σ q·log p, or the Kullback-Leibler divergence Σ q·(log q - log p).

Both have the same gradient. The divergence is 0 where the pupil agrees with the targets.
"""


def teacher_probabilities(
    features: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    vocabulary: int | None = None,
    temperature: float = 1.0,
    cap: float | None = None,
) -> Callable[[slice], torch.Tensor]:
    """Return the soft targets of a teacher: a function from a slice of the tokens to the teacher's probabilities.

    Nothing is computed before the function is called, and no gradient flows to the teacher. The mean of several
    teachers is a function, too, that calls the function of each.

    Args:
        features: Hidden states of the teacher, (tokens, width of the teacher).
        weight: Weight of the teacher's head, (padded vocabulary, width of the teacher).
        bias: Bias of the teacher's head, (padded vocabulary,), or None.
        vocabulary: Number of rows of `weight` that stand for tokens; None means all.
        temperature: Number by which the logits are divided, above 0; the same as that of the pupil.
        cap: Bound of the teacher's logits, see `lavra.models.protocols.logit_cap_of`.

    Examples:
        >>> teach = teacher_probabilities(torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [-1.0]]))
        >>> [[round(one, 2) for one in row] for row in teach(slice(0, 2)).tolist()]
        [[0.5, 0.5], [1.0, 0.0]]
    """
    real = vocabulary or weight.shape[0]

    def probabilities(tokens: slice) -> torch.Tensor:
        with torch.no_grad():
            logits = chunk_logits(features[tokens], weight, bias, real, cap)[:, :real]
            return torch.softmax(logits / temperature, -1, dtype=wide_type(logits.dtype))

    return probabilities


def _loss_and_gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    temperature: float,
    divergence: Divergence,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the chunk's summed loss and its gradient with respect to the logits, both in float32 or float64.

    With z = logits / T, p = softmax(z) and targets q, the loss is T²·(-Σ q·log p), and its gradient T·(Σq · p - q).
    """
    log_p = torch.log_softmax(logits / temperature if temperature != 1.0 else logits, -1, dtype=wide_type(logits.dtype))
    losses = -(targets * log_p).sum(-1)
    if divergence == "kl":
        losses = losses + torch.special.xlogy(targets, targets).sum(-1)
    gradient = log_p.exp_().mul_(targets.sum(-1, keepdim=True)).sub_(targets)
    if weights is not None:
        losses, gradient = losses * weights, gradient.mul_(weights[:, None])
    if temperature != 1.0:
        losses, gradient = losses * temperature**2, gradient.mul_(temperature)
    return losses.sum(), gradient


class _ChunkedSoftCrossEntropy(torch.autograd.Function):
    """Linear head and cross-entropy against soft targets as one function, see `_ChunkedCrossEntropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: Callable[[slice], torch.Tensor],
        weights: torch.Tensor | None,
        vocabulary: int,
        temperature: float,
        divergence: Divergence,
        cap: float | None,
    ) -> torch.Tensor:
        size, wide = chunk_length(weight.shape[0], features.device), wide_type(weight.dtype)
        total = torch.zeros((), dtype=wide, device=features.device)
        wanted = ctx.needs_input_grad[:3]
        feature_gradient = torch.empty_like(features) if wanted[0] else None
        weight_gradient = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
        bias_gradient = torch.zeros_like(bias, dtype=wide) if bias is not None and wanted[2] else None
        for start in range(0, features.shape[0], size):
            part = slice(start, start + size)
            logits = chunk_logits(features[part], weight, bias, vocabulary, cap)[:, :vocabulary]
            loss, gradient = _loss_and_gradient(
                logits, targets(part).to(wide), None if weights is None else weights[part], temperature, divergence
            )
            total += loss
            if cap is not None:  # chain rule: y = cap · tanh(x / cap) has the derivative 1 - (y / cap)²
                gradient *= 1 - (logits / cap).square()
            gradient = gradient.to(logits.dtype)
            if feature_gradient is not None:
                torch.mm(gradient, weight[:vocabulary], out=feature_gradient[part])
            if weight_gradient is not None:
                weight_gradient[:vocabulary] += gradient.t() @ features[part]
            if bias_gradient is not None:
                bias_gradient[:vocabulary] += gradient.sum(0)
        ctx.save_for_backward(feature_gradient, weight_gradient, bias_gradient)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        scale = gradients[0]
        features, weight, bias = ctx.saved_tensors
        features = None if features is None else features * scale
        weight = None if weight is None else (weight * scale).to(ctx.dtype)
        bias = None if bias is None else (bias * scale).to(ctx.dtype)
        return features, weight, bias, None, None, None, None, None, None


def summed_soft_cross_entropy(
    features: torch.Tensor,
    weight: torch.Tensor,
    targets: SoftTargets,
    *,
    bias: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    vocabulary: int | None = None,
    temperature: float = 1.0,
    divergence: Divergence = "cross-entropy",
    cap: float | None = None,
) -> torch.Tensor:
    """Return the () summed cross-entropy in nats against soft targets, with a gradient to the pupil.

    The logits of the whole batch never exist at once: they are made, used and dropped a chunk of tokens at a time, and
    so are those of a teacher.

    Args:
        features: Hidden states, (tokens, width). There is no token without a target here: those of weight 0 add
            nothing.
        weight: Weight of the head, (padded vocabulary, width).
        targets: Probabilities of the targets, (tokens, vocabulary), or a function from a slice of the tokens to theirs,
            such as `teacher_probabilities` returns. They receive no gradient.
        bias: Bias of the head, (padded vocabulary,), or None.
        weights: Factor on the loss of each token, (tokens,) float32; None multiplies by nothing.
        vocabulary: Number of rows of `weight` that stand for tokens or classes; None means all. The rows after them are
            padding and have probability zero.
        temperature: Number T above 0 by which the pupil's logits are divided; the targets are taken to be softened
            already. The loss is multiplied by T², so that its gradient keeps its size (Hinton et al. 2015, arXiv
            1503.02531, section 2).
        divergence: `cross-entropy`, or `kl` for the Kullback-Leibler divergence.
        cap: Bound of the logits, see `lavra.objectives.cross_entropy.summed_cross_entropy`.

    Returns:
        A () tensor, float32 (float64 where the weight is float64).

    Raises:
        ValueError: If the temperature is not above 0.

    Examples:
        A pupil that is indifferent between two classes costs ln 2 = 0.693 nats a token, whatever the targets say:

        >>> features, head = torch.zeros(2, 3), torch.zeros(2, 3, requires_grad=True)
        >>> loss = summed_soft_cross_entropy(features, head, torch.tensor([[1.0, 0.0], [0.3, 0.7]]))
        >>> round(loss.item(), 3)
        1.386
    """
    if temperature <= 0:
        raise ValueError(f"a temperature of {temperature} is not above 0")
    give = targets.__getitem__ if isinstance(targets, torch.Tensor) else targets
    return _ChunkedSoftCrossEntropy.apply(  # pyright: ignore[reportReturnType]
        features, weight, bias, give, weights, vocabulary or weight.shape[0], temperature, divergence, cap
    )

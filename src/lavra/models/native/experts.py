"""A mixture of experts in place of the MLP of a block: a router gives each token to some of many MLPs.

No token is dropped and no place is padded: the tokens of each expert are one matrix product of their number
(MegaBlocks, Gale et al. 2022, arXiv 2211.15841).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from lavra.models.native.loss_factor import loss_factor
from lavra.models.spec import DecoderSpec

_PUSH = 1e-3
"""Factor on the gradient of the balancing bias. Adam's steps do not depend on it, and so small it plays no part in the
norm of the whole gradient."""


class Experts(nn.Module):
    """The experts of a block with their router, and MLPs that every token passes.

    Args:
        spec: Specification of the model.
        make_mlp: Makes the MLP of a specification, which each expert is.

    Attributes:
        router: Linear layer whose outputs, through a softmax, are the probabilities of the experts.
        balance_bias: Number that is added to the probability of each expert where experts are chosen, and only there
            (Wang et al. 2024, arXiv 2408.15664, loss-free balancing). Its gradient is the number of tokens that chose
            the expert beyond an equal share, so that it falls where an expert has too many. None without it.
        shared_gate: Linear layer whose sigmoid weighs the output of the shared experts; None without it.
    """

    norm = None
    """No norm stands inside of it, as NormFormer has one in an MLP; its experts have their own."""

    def __init__(self, spec: DecoderSpec, make_mlp: Callable[[DecoderSpec], nn.Module]) -> None:
        super().__init__()
        self.chosen, self.normalized, self.balance_loss = (
            spec.experts_per_token,
            spec.expert_normalized,
            spec.balance_loss,
        )
        self.router = nn.Linear(spec.width, spec.experts, bias=False)
        self.balance_bias = nn.Parameter(torch.zeros(spec.experts)) if spec.balance_bias else None
        self.experts = nn.ModuleList(make_mlp(spec) for _ in range(spec.experts))
        together = replace(spec, mlp_width=spec.shared_experts * spec.hidden_width)
        self.shared = make_mlp(together) if spec.shared_experts else None
        self.shared_gate = nn.Linear(spec.width, 1, bias=False) if spec.shared_gate else None

    @torch.compiler.disable
    def forward(self, x: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        """Return the weighted outputs of the chosen experts, and those of the shared ones, (rows, length, width).

        Args:
            x: Input, (rows, length, width).
            tokens: Whether each position is a token and not padding, which takes no part in the balance, (rows,
                length) bool; None where all are.
        """
        weights, numbers = self._choose(x, tokens)
        flat = x.reshape(-1, x.shape[-1])
        count, width = flat.shape
        order = numbers.reshape(-1).argsort(stable=True)
        given = flat[:, None].expand(-1, self.chosen, -1).reshape(-1, width)[order]
        parts = given.split(self._sizes(numbers))
        found = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        found = found[order.argsort()].view(count, self.chosen, width)
        mixed = (found * weights.reshape(count, self.chosen, 1).to(found.dtype)).sum(1).view(x.shape)
        if self.shared is None:
            return mixed
        common = self.shared(x)
        return mixed + (common if self.shared_gate is None else self.shared_gate(x).sigmoid() * common)

    def _choose(self, x: torch.Tensor, tokens: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights and the numbers of the experts of each token, (rows, length, chosen) each."""
        probabilities = self.router(x).to(torch.promote_types(x.dtype, torch.float32)).softmax(-1)
        ranked = probabilities.detach()
        if self.balance_bias is not None:
            ranked = ranked + self.balance_bias.detach()
        numbers = ranked.topk(self.chosen, -1).indices
        if torch.is_grad_enabled() and (self.balance_loss or self.balance_bias is not None):
            probabilities = self._balanced(probabilities, numbers, tokens)
        weights = probabilities.gather(-1, numbers)
        return (weights / weights.sum(-1, keepdim=True) if self.normalized else weights), numbers

    def _balanced(
        self, probabilities: torch.Tensor, numbers: torch.Tensor, tokens: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the same probabilities, through which the backward pass learns to give all experts as many tokens.

        The auxiliary loss of a sequence of T tokens is T · factor · Σ f P, summed over the experts, in which f is the
        share of the tokens that chose the expert, relative to an equal share, and P is the mean of its probabilities
        (Fedus et al. 2021, arXiv 2101.03961, for each sequence by itself). It is a sum over sequences, so that
        micro-batches add up to one batch. Only its gradient is added: the loss that is told stays that of the text.
        """
        count = probabilities.shape[-1]
        load = torch.zeros_like(probabilities).scatter_(-1, numbers, 1.0)
        counted = torch.ones_like(load[..., :1]) if tokens is None else tokens[..., None].to(load.dtype)
        load = load * counted
        share = load.sum(-2, keepdim=True) / counted.sum(-2, keepdim=True).clamp(min=1.0) * (count / self.chosen)
        beyond = load.flatten(0, -2).sum(0) - counted.sum() * self.chosen / count
        nudge = self.balance_loss * share * counted
        return _Nudged.apply(probabilities, self.balance_bias, nudge, _PUSH * beyond)  # pyright: ignore[reportReturnType]

    def _sizes(self, numbers: torch.Tensor) -> list[int]:
        """Return how many tokens each expert gets; equal parts where there are no values, as in a dry run."""
        count, total = len(self.experts), numbers.numel()
        if numbers.is_meta or isinstance(numbers, FakeTensor):
            return [total * (expert + 1) // count - total * expert // count for expert in range(count)]
        return (numbers.reshape(-1, 1) == torch.arange(count, device=numbers.device)).sum(0).tolist()


class _Nudged(torch.autograd.Function):
    """Passes probabilities on, and adds to their gradient and to that of the bias what balances the experts."""

    @staticmethod
    def forward(
        ctx: Any, probabilities: torch.Tensor, bias: torch.Tensor | None, nudge: torch.Tensor, push: torch.Tensor
    ) -> torch.Tensor:
        """Return the probabilities, (rows, length, experts).

        Args:
            ctx: What the backward pass needs.
            probabilities: Probabilities of the experts, (rows, length, experts).
            bias: Balancing bias, (experts,), or None.
            nudge: Gradient of the auxiliary loss, (rows, length, experts).
            push: Gradient of the bias, (experts,).
        """
        ctx.save_for_backward(nudge, push)
        ctx.kind = None if bias is None else bias.dtype
        return probabilities.view_as(probabilities)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the probabilities and of the bias.

        A step back-propagates its summed loss times a factor, and what is added here must have the same one.

        Args:
            ctx: What the forward pass saved.
            gradients: Gradient of the probabilities from the loss.
        """
        nudge, push = (added * loss_factor() for added in ctx.saved_tensors)
        return gradients[0] + nudge, None if ctx.kind is None else push.to(ctx.kind), None, None

"""Gradients at perturbed weights: what sharpness-aware minimisation and adversarial perturbations have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from lavra.training.precision import MasterWeights
from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome, Update


class Perturbation(Update):
    """Base class of updates that take the gradient at weights a little way off, and then go back to the weights.

    A subclass says by `changes` where to, from the gradient that is there. The rows and the dropout of the second
    gradient are those of the first. It is computed over all micro-batches and processes, and takes the place of the
    first, or is added to it. A second gradient that is not finite is not applied.

    The change is made to the fp32 master weights, of which the model computes with a rounded copy. In bf16 a change
    that is smaller than the rounding moves some weights by a whole rounding step and leaves others, so that it is right
    on average only; `perturbed_loss` among the metrics shows whether the loss rises as it should.

    The gradient is clipped after this update, so that the norm that counts is that of the gradient that is applied.
    The norm in the log stays that of the first gradient.

    Attributes:
        adds: Whether the second gradient is added to the first, instead of taking its place.
    """

    adds = False

    def active(self, step: Step) -> bool:
        """Return whether this step takes a second gradient."""
        return True

    def changes(self, step: Step) -> dict[str, torch.Tensor]:
        """Return the change of each master weight that is perturbed, by name.

        The tensors of the gradients may be used for it.

        Args:
            step: The step, whose gradients are those at the weights as they are.
        """
        raise NotImplementedError

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Take the gradient at the perturbed weights, perform the rest of the step, and return its outcome."""
        if not self.active(step):
            return inner()
        weights = step.master_weights.weights
        clean = {name: weight.grad.clone() for name, weight in weights.items() if self.adds and weight.grad is not None}
        with torch.no_grad():
            changes = self.changes(step)
        with perturbed(step.master_weights, changes):
            loss = step.backward(record=False)
        if not (math.isfinite(loss) and math.isfinite(step.current_norm())):
            return Outcome(applied=False, reason=f"{self.name}: the gradient at the perturbed weights is not finite")
        for name, gradient in clean.items():
            second = weights[name].grad
            weights[name].grad = gradient if second is None else second.add_(gradient)
        outcome = inner()
        outcome.metrics["perturbed_loss"] = loss
        return outcome


@contextmanager
def perturbed(master_weights: MasterWeights, changes: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let the model compute with changed weights during the block; they are restored to the bit.

    Args:
        master_weights: Master weights of the model.
        changes: What is added to each of the weights, by name.
    """
    weights = [master_weights.weights[name] for name in changes]
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, change in zip(weights, changes.values(), strict=True):
                weight.add_(change)
        master_weights.copy_to_model()
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
        master_weights.copy_to_model()

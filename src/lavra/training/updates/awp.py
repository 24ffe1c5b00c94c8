"""Adversarial weight perturbation: the form of the paper, and the form that won text competitions."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from lavra.core.errors import InputError
from lavra.training.step import Step
from lavra.training.updates.perturbation import Perturbation

Form = Literal["paper", "clamped"]
"""How far weights are perturbed.

`paper` (Wu et al. 2020, arXiv 2004.05884): every matrix by a step along its gradient, as long as a share of the norm of
the matrix. `clamped` (code of Kaggle competitions): the same step, but no weight moves by more than a share of its own
size.
"""

_TINY = 1e-12


class AdversarialWeights(Perturbation):
    """Update that takes the gradient at weights that were moved to raise the loss, each matrix by itself.

    A matrix w with the gradient g is moved by strength·‖w‖·g/‖g‖; vectors (norms, biases) stay. The gradient there
    takes the place of the clean one, and the optimiser applies it to the weights where they were. The paper perturbs
    the weights under adversarial examples, and finds the way by a copy of the model; here the rows are the plain ones,
    and the way is the gradient that is there already, which a single step of the copy would follow, too.

    Args:
        strength: Length of the step in units of the norm of the matrix (γ of the paper, `adv_lr` in competitions), 0 or
            more; 0 is the run without the update, to the bit.
        form: Whether single weights are limited.
        limit: Largest change of a weight in units of its size, for `clamped` (`adv_eps` in competitions).
        start: Share of the run after which weights are perturbed, from 0 to 1.

    Raises:
        InputError: If a value is out of range.

    Examples:
        >>> AdversarialWeights(0.01).gradients_per_step, AdversarialWeights(0.01, start=0.5).gradients_per_step
        (2.0, 1.5)
    """

    name = "awp"

    def __init__(self, strength: float, form: Form = "paper", limit: float = 0.01, start: float = 0.0) -> None:
        if form not in get_args(Form):
            raise InputError(f"{form!r} is no form of the perturbation", f"choose one of {', '.join(get_args(Form))}")
        if strength < 0 or limit <= 0 or not 0 <= start <= 1:
            raise InputError(
                f"a strength of {strength:g}, a limit of {limit:g} and a start of {start:g} are not possible together",
                "choose a strength of 0 or more, a limit above 0, and a start from 0 to 1",
            )
        self.strength, self.form, self.limit, self.start = strength, form, limit, start
        self.gradients_per_step = 2.0 - start if strength else 1.0

    def active(self, step: Step) -> bool:
        """Return whether weights are perturbed at this moment of the run."""
        return self.strength > 0 and step.progress >= self.start

    def changes(self, step: Step) -> dict[str, torch.Tensor]:
        """Return the change of each matrix that has a gradient."""
        found = {}
        for name, weight in step.master_weights.weights.items():
            if weight.grad is None or weight.dim() < 2:
                continue
            size = torch.linalg.vector_norm(weight.detach())
            length = torch.linalg.vector_norm(weight.grad).clamp_min(_TINY)
            change = weight.grad.mul_(self.strength * size / length)
            if self.form == "clamped":
                most = weight.detach().abs() * self.limit
                change = torch.clamp(change, -most, most)
            found[name] = change
        return found

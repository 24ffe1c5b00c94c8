"""Sharpness-aware minimisation: SAM (Foret et al. 2021, arXiv 2010.01412) and ASAM (Kwon et al. 2021, 2102.11600)."""

from __future__ import annotations

import torch

from lavra.core.errors import InputError
from lavra.training.step import Step
from lavra.training.updates.perturbation import Perturbation

_SMALLEST_SCALE = 0.01
"""What ASAM adds to the size of each weight (η in the paper), so that weights of zero move, too."""


class SharpnessAware(Perturbation):
    """Update that takes the gradient at the worst weights near by, which prefers flat minima.

    With the gradient g, SAM climbs by ρ·g/‖g‖, where the norm is that of all weights together. ASAM measures the way in
    units of the weights' own sizes T = |w| + 0.01 (1 for biases, as in the authors' code), and climbs by
    ρ·T²g/‖Tg‖. The optimiser applies the gradient that is found there to the weights where they were.

    Args:
        rho: Distance ρ, 0 or more; 0 is the run without the update, to the bit.
        adaptive: Whether the distance is ASAM's.
        ascent_fraction: Share of the rows of a step that say where to climb, above 0 and at most 1; see
            `lavra.training.step.Step.backward`. The gradient that is applied is always that of the whole step. Loss and
            gradient norm in the log are those of this share.

    Raises:
        InputError: If a value is out of range.

    Examples:
        >>> SharpnessAware(0.05).gradients_per_step, SharpnessAware(0.5, adaptive=True).name
        (2.0, 'asam')
        >>> SharpnessAware(0.05, ascent_fraction=0.25).gradients_per_step, SharpnessAware(0.0).gradients_per_step
        (1.25, 1.0)
    """

    def __init__(self, rho: float, adaptive: bool = False, ascent_fraction: float = 1.0) -> None:
        if rho < 0 or not 0 < ascent_fraction <= 1:
            raise InputError(
                f"a distance of {rho:g} by {ascent_fraction:g} of the rows is not possible",
                "choose a distance of 0 or more, and a share above 0 and at most 1",
            )
        self.name = "asam" if adaptive else "sam"
        self.rho, self.adaptive = rho, adaptive
        self.gradient_share = ascent_fraction if rho else 1.0
        self.gradients_per_step = 1.0 + ascent_fraction if rho else 1.0

    def active(self, step: Step) -> bool:
        """Return whether there is a distance to climb."""
        return self.rho > 0

    def changes(self, step: Step) -> dict[str, torch.Tensor]:
        """Return the way up from each weight that has a gradient."""
        weights = {name: weight for name, weight in step.master_weights.weights.items() if weight.grad is not None}
        gradients = step.master_weights.gradients()
        sizes = [_size(name, weight) if self.adaptive else None for name, weight in weights.items()]
        for gradient, size in zip(gradients, sizes, strict=True):
            if size is not None:
                gradient.mul_(size)
        norm = step.current_norm()
        if not norm:
            return {}
        for gradient, size in zip(gradients, sizes, strict=True):
            gradient.mul_(self.rho / norm)
            if size is not None:
                gradient.mul_(size)
        return dict(zip(weights, gradients, strict=True))


def _size(name: str, weight: torch.Tensor) -> torch.Tensor | None:
    return None if name.endswith("bias") else weight.detach().abs() + _SMALLEST_SCALE

"""The fast gradient method on the embedding (after Miyato et al. 2017, arXiv 1605.07725)."""

from __future__ import annotations

import re

import torch

from lavra.core.errors import InputError
from lavra.models.parameter_names import is_embedding
from lavra.training.precision import MasterWeights
from lavra.training.step import Step
from lavra.training.updates.perturbation import Perturbation

_OTHER_TABLES = re.compile(r"position|token_type|relative|rel_embed|wpe|norm|bigram", re.IGNORECASE)


class FastGradientMethod(Perturbation):
    """Update that adds the gradient under an adversarial change of the embedding to the clean gradient.

    The table of token embeddings as a whole is moved by epsilon·g/‖g‖ along its gradient g, as in the code of text
    competitions; the paper moves the normalised embeddings of each text.

    Args:
        epsilon: Length of the change, 0 or more; 0 is the run without the update, to the bit.
        master_weights: Master weights, among which the embedding must be.

    Raises:
        InputError: If epsilon is negative, or no embedding is trained.
    """

    name = "fgm"
    adds = True

    def __init__(self, epsilon: float, master_weights: MasterWeights) -> None:
        if epsilon < 0:
            raise InputError(f"a change of the length {epsilon:g} is not possible", "choose 0 or more")
        self.epsilon = epsilon
        weights = master_weights.weights
        self.tables = [
            name
            for name, weight in weights.items()
            if weight.dim() == 2 and is_embedding(name) and not _OTHER_TABLES.search(name)
        ]
        if epsilon and not self.tables:
            raise InputError(
                "the adversarial change of the embedding needs one that is trained",
                "leave out --fgm, or what freezes the embedding (an adapter, --freeze)",
            )
        self.gradients_per_step = 2.0 if epsilon else 1.0

    def active(self, step: Step) -> bool:
        """Return whether there is a change."""
        return self.epsilon > 0

    def changes(self, step: Step) -> dict[str, torch.Tensor]:
        """Return the change of each table of token embeddings."""
        gradients = {name: step.master_weights.weights[name].grad for name in self.tables}
        return {
            name: gradient * (self.epsilon / torch.linalg.vector_norm(gradient).clamp_min(1e-12))
            for name, gradient in gradients.items()
            if gradient is not None
        }

"""CoSENT: of two pairs, the one with the higher score gets the higher cosine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lavra.core.errors import InputError
from lavra.objectives.base import Loss
from lavra.objectives.embedding.correlations import correlations
from lavra.objectives.embedding.rows import VectorObjective, pairs_of, weight_of


@dataclass(frozen=True)
class CoSENT(VectorObjective):
    """The logarithm of 1 + Σ exp((cos_b - cos_a) / temperature), over pairs a and b of which a has the higher score.

    It is Su's loss for scored pairs (CoSENT, 2022, https://kexue.fm/archives/8847): only the order of the scores
    matters, not their scale, and pairs of equal score are not compared. The loss is one number for the whole step,
    which counts once for each pair. With weights, a comparison weighs as much as its two pairs multiplied.

    Attributes:
        temperature: Number above 0 by which cosines are divided.

    Raises:
        InputError: If the temperature is not above 0.
    """

    temperature: float = 0.05

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"a temperature of {self.temperature} is not above 0", "choose e.g. 0.05")

    def compare(self, embeddings: torch.Tensor, info: dict[str, torch.Tensor], *, learning: bool = True) -> Loss:
        """Return the loss of the pairs of a step in nats; where it is only measured, with the correlations as parts."""
        cosines, known = pairs_of(embeddings, info)
        scores, weights = known["scores"], known["row_weights"]
        total = weight_of(weights)
        logits = cosines / self.temperature
        wrong = logits[None, :] - logits[:, None] + weights.log()[None, :] + weights.log()[:, None]
        terms = wrong[scores[:, None] > scores[None, :]]
        loss = torch.cat([terms.new_zeros(1), terms]).logsumexp(0) * total
        parts = {} if learning else {name: one * total for name, one in correlations(cosines, scores).items()}
        return Loss(loss, total, parts)

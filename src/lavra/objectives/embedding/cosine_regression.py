"""Cosine regression: the cosine of two texts is their score."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lavra.core.errors import InputError
from lavra.objectives.base import Loss
from lavra.objectives.embedding.correlations import correlations
from lavra.objectives.embedding.rows import VectorObjective, pairs_of, weight_of


@dataclass(frozen=True)
class CosineRegression(VectorObjective):
    """The squared error of the cosine of a pair, as Sentence-BERT learns scores (Reimers 2019, arXiv 1908.10084).

    Attributes:
        lowest: Score whose cosine is 0.
        highest: Score whose cosine is 1.

    Raises:
        InputError: If the highest score is not above the lowest.
    """

    lowest: float = 0.0
    highest: float = 1.0

    def __post_init__(self) -> None:
        if not self.highest > self.lowest:
            raise InputError(
                f"scores from {self.lowest} to {self.highest} do not differ", "give pairs of several scores"
            )

    def compare(self, embeddings: torch.Tensor, info: dict[str, torch.Tensor], *, learning: bool = True) -> Loss:
        """Return the summed squared error; where it is only measured, with the correlations as parts."""
        cosines, known = pairs_of(embeddings, info)
        wanted = (known["scores"] - self.lowest) / (self.highest - self.lowest)
        total = weight_of(known["row_weights"])
        found = {} if learning else correlations(cosines, known["scores"])
        loss = ((cosines - wanted).square() * known["row_weights"]).sum()
        return Loss(loss, total, {name: one * total for name, one in found.items()})

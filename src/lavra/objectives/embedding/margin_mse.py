"""MarginMSE: by how much a passage answers better than another one is what a teacher says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lavra.core.errors import InputError
from lavra.objectives.base import Loss
from lavra.objectives.embedding.rows import ANCHOR, NEGATIVE, POSITIVE, PairRow, VectorObjective, weight_of

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Batch


@dataclass(frozen=True)
class MarginMSE(VectorObjective):
    """The squared error of a margin (Hofstätter et al. 2020, arXiv 2010.02666), with which GPL learns (2112.07577).

    The margin of a row is the similarity of query and positive minus that of query and negative. The similarity is the
    cosine divided by the temperature, because a cosine alone could not reach the margins of raw logits.

    Attributes:
        temperature: Number above 0 by which cosines are divided.
        scale: Number by which the margins of the rows are multiplied before they are learned.

    Raises:
        InputError: If the temperature is not above 0.
    """

    temperature: float = 0.05
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"a temperature of {self.temperature} is not above 0", "choose e.g. 0.05")

    def encode(self, rows: Sequence[PairRow], streams: Streams, progress: float) -> Batch:
        """Return a batch of queries, positives and negatives; see `VectorObjective.encode`.

        Raises:
            InputError: If a row has no negative.
        """
        if bare := [row.number for row in rows if not row.negatives]:
            raise InputError(f"row {bare[0]} has no negative, and so no margin", "give each row a negative")
        return super().encode(rows, streams, progress)

    def compare(self, embeddings: torch.Tensor, info: dict[str, torch.Tensor], *, learning: bool = True) -> Loss:
        """Return the summed squared error of the margins of the first negatives.

        Where it is only measured, the part `accuracy` sums the weights of the rows whose positive is nearer.
        """
        roles = info["roles"]
        after_positive = torch.cat([torch.zeros_like(roles[:1], dtype=torch.bool), roles[:-1] == POSITIVE])
        anchors = (roles == ANCHOR).nonzero()[:, 0]
        positives = (roles == POSITIVE).nonzero()[:, 0]
        negatives = ((roles == NEGATIVE) & after_positive).nonzero()[:, 0]
        weights, wanted = info["row_weights"][anchors], info["scores"][anchors] * self.scale
        nearer = embeddings[positives] - embeddings[negatives]
        margins = (embeddings[anchors] * nearer).sum(-1) / self.temperature
        parts = {} if learning else {"accuracy": ((margins > 0) * weights).sum()}
        return Loss(((margins - wanted).square() * weights).sum(), weight_of(weights), parts)

"""Contrastive learning of embeddings: a text is nearer to its partner than to the other texts of the step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.objectives.base import Loss
from lavra.objectives.embedding.rows import ANCHOR, NEGATIVE, POSITIVE, PairRow, VectorObjective

__all__ = ["ANCHOR", "NEGATIVE", "POSITIVE", "Contrastive", "PairRow"]


@dataclass(frozen=True)
class Contrastive(VectorObjective):
    """Symmetric InfoNCE with in-batch negatives (van den Oord et al. 2018, arXiv 1807.03748; CLIP, arXiv 2103.00020).

    Each anchor is to be recognised as the partner of its positive among the positives and hard negatives of the whole
    step, and each positive as the partner of its anchor among the anchors. The embeddings are those of the head that is
    attached to the model.

    A text that occurs again in the step is no negative: where two anchors are the same text, the positive of one is not
    held against the other, and a text is not held against itself. Those pairs are masked, as are the copies of a
    positive. Each text is known by a hash of its ids.

    Attributes:
        temperature: Number above 0 by which similarities are divided.
        symmetric: Whether positives are to recognise their anchors, too.

    Raises:
        InputError: If the temperature is not above 0.
    """

    temperature: float = 0.05
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"a temperature of {self.temperature} is not above 0", "choose e.g. 0.05")

    @property
    def learned(self) -> tuple[int, ...]:
        """The roles of the texts that are to recognise their partner."""
        return (ANCHOR, POSITIVE) if self.symmetric else (ANCHOR,)

    def compare(self, embeddings: torch.Tensor, info: dict[str, torch.Tensor], *, learning: bool = True) -> Loss:
        """Return the summed cross-entropy in nats of recognising each text's partner.

        Args:
            embeddings: Embeddings of the texts, (texts, dimensions).
            info: What `info` returned of the same texts. A row begins with its anchor, which the positive follows.
            learning: Whether the model learns from it. Where the loss is only measured, the part `accuracy` sums the
                weights of the texts whose partner is nearest among those that are not masked.
        """
        roles, keys = info["roles"], info["keys"]
        anchors, positives = ((roles == role).nonzero()[:, 0] for role in (ANCHOR, POSITIVE))
        candidates = torch.cat([positives, (roles == NEGATIVE).nonzero()[:, 0]])
        pair = torch.arange(len(anchors), device=roles.device)
        # Copies of the anchor's text make one question of two rows: what answers one is no wrong answer to the other.
        alike = keys[anchors][:, None] == keys[anchors][None]
        answers = keys[positives][:, None] == keys[candidates][None]
        same = answers | (keys[anchors][:, None] == keys[candidates][None])
        same[:, : len(anchors)] |= alike
        weights = info["row_weights"][anchors]
        total, right = self._recognise(embeddings[anchors], embeddings[candidates], pair, same, weights)
        if self.symmetric:
            same = alike | answers[:, : len(anchors)] | (keys[positives][:, None] == keys[anchors][None])
            other, other_right = self._recognise(embeddings[positives], embeddings[anchors], pair, same, weights)
            total, right = total + other, right + other_right
        parts = {} if learning else {"accuracy": right}
        return Loss(total, float(weights.double().sum()) * (2 if self.symmetric else 1), parts)

    def _recognise(
        self,
        asking: torch.Tensor,
        candidates: torch.Tensor,
        partner: torch.Tensor,
        masked: torch.Tensor,
        weights: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the () weighted sums of the cross-entropy of each text's partner, and of whether it is the nearest."""
        logits = asking @ candidates.t() / self.temperature
        masked = masked.clone()
        masked[torch.arange(len(partner), device=partner.device), partner] = False
        logits = logits.masked_fill(masked, -torch.inf)
        losses = F.cross_entropy(logits, partner, reduction="none")
        return (losses * weights).sum(), ((logits.argmax(1) == partner) * weights).sum()

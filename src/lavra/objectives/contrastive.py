"""Contrastive learning of embeddings: a text is nearer to its partner than to the other texts of the step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.heads import head_of
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss, compared_loss, padded_width

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Model

ANCHOR, POSITIVE, NEGATIVE = 0, 1, 2
"""Roles of the texts of a row."""


@dataclass(frozen=True)
class PairRow:
    """Two texts that belong together, and texts that do not belong to the first.

    Attributes:
        number: Number of the row in its data set.
        anchor: Token ids of the first text, such as a question, (n,).
        positive: Token ids of the text that belongs to it, (n,).
        negatives: Token ids of texts that do not belong to it although they seem to (hard negatives).
        weight: Weight of the row in the loss, 0 or more.
    """

    number: int
    anchor: np.ndarray
    positive: np.ndarray
    negatives: tuple[np.ndarray, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Contrastive:
    """Symmetric InfoNCE with in-batch negatives (van den Oord et al. 2018, arXiv 1807.03748; CLIP, arXiv 2103.00020).

    Each anchor is to be recognised as the partner of its positive among the positives and hard negatives of the whole
    step, and each positive as the partner of its anchor among the anchors. The embeddings are those of the head that is
    attached to the model.

    A text that occurs again in the step is no negative: where two anchors are the same text, the positive of one is not
    held against the other, and a text is not held against itself. Those pairs are masked, as are the copies of a
    positive. Each text is known by a hash of its ids.

    Attributes:
        context: Longest text in tokens; longer ones must have been cut before.
        temperature: Number above 0 by which similarities are divided.
        symmetric: Whether positives are to recognise their anchors, too.

    Raises:
        InputError: If the temperature is not above 0.
    """

    context: int
    temperature: float = 0.05
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"a temperature of {self.temperature} is not above 0", "choose e.g. 0.05")

    def encode(self, rows: Sequence[PairRow], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each text, row after row; nothing is random.

        The target of a text that is to recognise its partner stands at its first token, so that the weight of the batch
        is the number of those texts, or the sum of the weights of their rows where one is not 1.

        Args:
            rows: Pairs of texts.
            streams: Not used.
            progress: Not used.

        Raises:
            InputError: If a text has no tokens.
        """
        texts = [
            (row, min(place, NEGATIVE), ids)
            for row in rows
            for place, ids in enumerate((row.anchor, row.positive, *row.negatives))
        ]
        if empty := [row.number for row, _, ids in texts if not len(ids)]:
            raise InputError(f"row {empty[0]} has a text without tokens", "leave such rows out when preparing them")
        shape = (len(texts), padded_width(max(len(ids) for _, _, ids in texts), self.context))
        inputs, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        document_ids, targets = np.full(shape, -1, dtype=np.int32), np.full(shape, IGNORED, dtype=np.int64)
        for number, (_, role, ids) in enumerate(texts):
            inputs[number, : len(ids)], document_ids[number, : len(ids)] = ids, 0
            positions[number, : len(ids)] = np.arange(len(ids))
            if role == ANCHOR or (role == POSITIVE and self.symmetric):
                targets[number, 0] = role
        weights = torch.tensor([row.weight for row, _, _ in texts], dtype=torch.float32)
        batch = Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            document_ids=torch.from_numpy(document_ids),
            positions=torch.from_numpy(positions),
            weight=float((targets != IGNORED).sum()),
            documents=tuple(row.number for row in rows),
            model_inputs={
                "roles": torch.tensor([role for _, role, _ in texts]),
                "keys": torch.tensor([_key(ids) for _, _, ids in texts]),
                "row_weights": weights,
            },
        )
        return batch if bool((weights == 1).all()) else batch.weighted(weights[:, None].repeat(1, shape[1]))

    def embed(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the (texts, dimensions) embeddings of a micro-batch, by the head that is attached to the model.

        Args:
            model: Model with an `EmbeddingHead`.
            batch: Batch on the model's device.
        """
        return head_of(model)(model.features(batch), batch)

    def info(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return role, key and weight of each text, (texts,) each.

        Args:
            batch: Batch on the model's device.
        """
        return {name: batch.model_inputs[name] for name in ("roles", "keys", "row_weights")}

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

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the loss within one batch alone; a step compares all its micro-batches and processes instead.

        Args:
            model: Model with an `EmbeddingHead`.
            batch: Batch on the model's device.
            learning: Not used: nothing differs.
        """
        return compared_loss(self, model, batch, learning=learning)


def _key(ids: np.ndarray) -> int:
    """Return a number of 63 bits that equal texts share and different ones practically never do."""
    digest = hashlib.blake2b(np.ascontiguousarray(ids, dtype=np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

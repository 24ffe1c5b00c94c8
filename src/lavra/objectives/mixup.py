"""Mixup of the vectors of texts, and of what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from lavra.core.errors import InputError
from lavra.models.heads import head_of
from lavra.models.pooling import documents_of
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import MEASURED, Loss
from lavra.objectives.wrapping import GivenOutputs, Wrapper, stream_of

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Model

_NUMBER = 2
"""Number of this wrapper's streams."""


@dataclass(frozen=True, eq=False)
class Mixup(Wrapper):
    """Mixes the vectors of neighbouring texts before the head's last layer (Zhang et al. 2018, arXiv 1710.09412; for
    texts, Sun et al. 2020, 2010.02394).

    With λ from a Beta(α, α) distribution, a text is learned from λ·(its vector) + (1 - λ)·(that of its partner), as λ
    times its own label and 1 - λ times the label of the partner. For the losses of classes and labels that is the same
    as mixing the labels, and for values it differs from it by a constant.

    The partner is the neighbour in the order of the run: of each two rows of a step the texts are paired in order, and
    a text without a partner, or whose partner has no label, stays as it is. λ comes from the stream of the row.
    Therefore a step does not depend on how it is cut into micro-batches, as long as these hold whole pairs of rows.

    Attributes:
        alpha: Parameter α of the distribution, 0 or more; small values mix little. 0 is the objective inside, to the
            bit.

    Raises:
        InputError: If alpha is negative.
    """

    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise InputError(f"a mixup of {self.alpha:g} is not possible", "choose 0 or more")

    @property
    def group(self) -> int:
        """Number of neighbouring rows that must share a micro-batch."""
        return 2 if self.alpha else super().group

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        """Return the batch of the objective inside, with the shares λ beside it, at the first token of each text.

        Args:
            rows: Rows of the objective inside, each of which becomes one sequence.
            streams: Function from a place in `rows` to the random generator of that row.
            progress: Share of the run that is done; with `MEASURED` nothing is mixed.
        """
        batch = self.inner.encode(rows, streams, progress)
        if not self.alpha or progress >= MEASURED:
            return batch
        shares = torch.ones(batch.inputs.shape)
        first = documents_of(batch).first
        for place in range(len(rows)):
            within = first[first // shares.shape[1] == place]
            drawn = stream_of(streams, place, _NUMBER).beta(self.alpha, self.alpha, len(within))
            shares.view(-1)[within] = torch.from_numpy(drawn).float()
        return replace(batch, model_inputs={**batch.model_inputs, "mixup": shares})

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed loss of the mixed texts; of the plain ones if it is only measured.

        Args:
            model: Model with a head of texts that has `pooled` and `outputs`, as `SequenceHead`.
            batch: Batch that `encode` made, on the model's device.
            learning: Whether the model learns from it.
        """
        shares = batch.model_inputs.get("mixup")
        if shares is None or not learning:
            return self.inner.loss(model, batch, learning=learning)
        head: Any = head_of(model)
        features, first = model.features(batch), documents_of(batch).first
        partner = partners(first // batch.inputs.shape[1] // 2)
        known = batch.targets.reshape(-1)[first] != IGNORED
        own = shares.reshape(-1)[first].masked_fill(~(known & known[partner]), 1.0)
        vectors = head.pooled(features, batch)
        share = own[:, None].to(vectors.dtype)
        outputs = head.outputs(share * vectors + (1.0 - share) * vectors[partner])
        given = cast("Model", GivenOutputs(model, features, outputs))
        mixed = (
            self.inner.loss(given, _labelled(batch, first, torch.arange(len(first), device=first.device), own)).sum
            + self.inner.loss(given, _labelled(batch, first, partner, 1.0 - own)).sum
        )
        return Loss(mixed, batch.weight)


def partners(groups: torch.Tensor) -> torch.Tensor:
    """Return the partner of each text, (texts,) int64: the next or the one before of the same group, or itself.

    Args:
        groups: Number of the group of each text, (texts,), in ascending order.

    Examples:
        >>> partners(torch.tensor([0, 0, 0, 1, 1])).tolist()
        [1, 0, 2, 4, 3]
    """
    place = torch.arange(len(groups), device=groups.device)
    begin, end = torch.searchsorted(groups, groups), torch.searchsorted(groups, groups, right=True)
    other = begin + ((place - begin) ^ 1)
    return torch.where(other < end, other, place)


def _labelled(batch: Batch, first: torch.Tensor, source: torch.Tensor, shares: torch.Tensor) -> Batch:
    """Return a batch in which each text has the label of another one, whose weight is multiplied by a share.

    Args:
        batch: Batch with a label for each text.
        first: Place of the first token of each text.
        source: Number of the text whose label each text gets.
        shares: Factor on the weight of each text.
    """
    shape, length = batch.inputs.shape, batch.inputs.shape[1]
    weights = torch.ones(shape, device=first.device) if batch.weights is None else batch.weights
    targets = batch.targets.reshape(-1).index_copy(0, first, batch.targets.reshape(-1)[first][source])
    given = weights.reshape(-1)[first][source] * shares
    weights = weights.reshape(-1).index_copy(0, first, given.to(weights.dtype)).reshape(shape)
    labels = batch.model_inputs.get("labels")
    inputs = batch.model_inputs
    if labels is not None:
        ids = torch.zeros_like(batch.inputs) if batch.document_ids is None else batch.document_ids
        place = first // length, ids.reshape(-1)[first].long()
        moved = labels.clone()
        moved[place] = labels[place][source]
        inputs = {**inputs, "labels": moved}
    return replace(batch, targets=targets.reshape(shape), weights=weights, model_inputs=inputs)

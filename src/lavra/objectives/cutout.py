"""Token cutout: some tokens of each text are hidden from the model while it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from lavra.core.errors import InputError
from lavra.objectives.base import MEASURED, Loss, WithEmbeddings
from lavra.objectives.wrapping import Wrapper, stream_of

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Batch, Model

_NUMBER = 0
"""Number of this wrapper's streams."""


@dataclass(frozen=True, eq=False)
class Cutout(Wrapper):
    """Hides tokens of what the model reads while it learns, each by itself; targets and labels stay.

    A hidden token is replaced by the mask token, or its embedding by zeros where there is none. Special tokens are
    never hidden. Which tokens are hidden is drawn from the stream of each row, so that it does not depend on the batch.

    Attributes:
        special: (vocabulary,) bool; the tokens that are never hidden.
        rate: Probability that a token is hidden, from 0 to below 1; 0 is the objective inside, to the bit.
        mask_token: Id that hides a token; None for embeddings of zeros.

    Raises:
        InputError: If the rate is out of range.
    """

    special: np.ndarray = field(repr=False)
    rate: float = 0.0
    mask_token: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InputError(f"a cutout of {self.rate:g} of the tokens is not possible", "choose 0 to below 1")

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        """Return the batch of the objective inside, with the tokens to hide beside it.

        Args:
            rows: Rows of the objective inside, each of which becomes one sequence.
            streams: Function from a place in `rows` to the random generator of that row.
            progress: Share of the run that is done; with `MEASURED` nothing is hidden.
        """
        batch = self.inner.encode(rows, streams, progress)
        if not self.rate or progress >= MEASURED:
            return batch
        # The first numbers of a stream do not depend on how many are drawn, so padding plays no part.
        drawn = [stream_of(streams, place, _NUMBER).random(batch.inputs.shape[1]) for place in range(len(rows))]
        hidden = (np.stack(drawn) < self.rate) & ~self.special[batch.inputs.numpy()]
        if batch.document_ids is not None:
            hidden &= batch.document_ids.numpy() >= 0
        return replace(batch, model_inputs={**batch.model_inputs, "cutout": torch.from_numpy(hidden)})

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the loss of the objective inside on the text with hidden tokens; on the whole text if only measured.

        Args:
            model: Model that computes the features.
            batch: Batch that `encode` made, on the model's device.
            learning: Whether the model learns from it.
        """
        hidden = batch.model_inputs.get("cutout")
        if hidden is None or not learning:
            return self.inner.loss(model, batch, learning=learning)
        if self.mask_token is not None:
            masked = replace(batch, inputs=batch.inputs.masked_fill(hidden, self.mask_token))
            return self.inner.loss(model, masked)
        embeddings = model.embed(batch.inputs).masked_fill(hidden[..., None], 0.0)
        return self.inner.loss(cast("Model", WithEmbeddings(model, embeddings)), batch)

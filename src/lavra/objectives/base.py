"""The objective's contract, and the loss as a sum and a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from lavra.models.batch import Batch

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.contract import Model


@dataclass(slots=True)
class Loss:
    """A loss is always a sum and a weight, so that micro-batches and ranks add up to one big batch.

    Attributes:
        sum: () float32 tensor with gradient: the summed loss in nats.
        weight: the number of targets that it sums over.
    """

    sum: torch.Tensor
    weight: float


class Objective(Protocol):
    """Owns what the model sees and what it is asked."""

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        """Make a batch of rows (windows of a token store, or examples).

        Args:
            rows: what the order gave for this micro-batch.
            streams: the stream of each row, by its place in `rows`; the only randomness allowed, so that a row is the
                same in whatever micro-batch it comes.
            progress: the share of the run that is done, from 0 to 1, for schedules.
        """
        ...

    def loss(self, model: Model, batch: Batch) -> Loss:
        """Return the summed loss of one batch; its gradient flows to the model's parameters."""
        ...

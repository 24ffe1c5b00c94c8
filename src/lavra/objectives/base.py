"""The objective's contract, the loss as a sum and a weight, and what the objectives share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from lavra.models.contract import IGNORED, Batch, logit_cap_of
from lavra.objectives.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
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

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed loss of one batch; its gradient flows to the model's parameters.

        Args:
            model: that predicts.
            batch: on the model's device.
            learning: False where the loss is only measured: then it is the plain likelihood, without what helps
                learning (label smoothing).
        """
        ...


# The positions that are learned from: the head is computed there and nowhere else.

_WIDTH_STEP = 64


def padded_width(longest: int, limit: int | None, step: int = _WIDTH_STEP) -> int:
    """Return the length of a batch whose longest row has `longest` positions.

    It is rounded up to a multiple of `step`, so that kernels and compiled graphs meet few different shapes, each of
    which has code and buffers of its own, and is at most `limit`.
    """
    width = -(-max(1, longest) // step) * step
    return width if limit is None else max(longest, min(width, limit))


def target_features(features: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the (targets, width) features and the (targets,) ids of the positions that are learned from.

    Their number is the batch's weight, which is known beforehand, so that nothing waits for the device.
    """
    flat = batch.targets.reshape(-1)
    places = torch.nonzero_static(flat != IGNORED, size=int(batch.weight), fill_value=0)[:, 0]
    return features.reshape(-1, features.shape[-1]).index_select(0, places), flat[places]


def loss_at_targets(model: Model, batch: Batch, label_smoothing: float) -> Loss:
    """Return the summed cross-entropy of the batch's targets."""
    features, targets = target_features(model.features(batch), batch)
    weight, bias = model.output_projection()
    total = summed_cross_entropy(
        features,
        weight,
        targets,
        bias=bias,
        vocabulary=model.vocabulary,
        label_smoothing=label_smoothing,
        cap=logit_cap_of(model),
    )
    return Loss(total, batch.weight)


# Windows of a token store as the rows of a batch, shared by the objectives that learn from text.


def batch_of_windows(
    rows: Sequence[Window], context: int, isolate: bool, ask: Callable[[int, Window], tuple[np.ndarray, np.ndarray]]
) -> Batch:
    """Lay windows out as rows; a shorter one (the last of an epoch) is filled up with ignored positions.

    Args:
        rows: the windows.
        context: length of a row.
        isolate: positions see only their own document and count from its beginning; otherwise a window is one text.
        ask: from the number and the window of a row to its (length,) inputs and targets.
    """
    shape = (len(rows), context)
    inputs = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    segments = np.full(shape, -1, dtype=np.int32)
    positions = np.zeros(shape, dtype=np.int64)
    for row, window in enumerate(rows):
        length = len(window)
        inputs[row, :length], targets[row, :length] = ask(row, window)
        if isolate:
            segments[row, :length], positions[row, :length] = window.segments, window.positions
        else:
            segments[row, :length], positions[row, :length] = 0, np.arange(length)
    whole = all(len(window) == context for window in rows)
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        segments=torch.from_numpy(segments) if isolate or not whole else None,
        positions=torch.from_numpy(positions) if isolate or not whole else None,
        weight=float((targets != IGNORED).sum()),
        documents=tuple(int(document) for window in rows for document in np.unique(window.documents)),
    )

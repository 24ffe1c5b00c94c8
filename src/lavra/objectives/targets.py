"""The positions that are learned from: the head is computed there and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lavra.models.batch import IGNORED, Batch
from lavra.models.contract import logit_cap_of
from lavra.objectives.base import Loss
from lavra.objectives.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:
    from lavra.models.contract import Model

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
    """Return the summed cross-entropy of the batch's targets, smoothed while learning and plain when only measured."""
    features, targets = target_features(model.features(batch), batch)
    weight, bias = model.output_projection()
    total = summed_cross_entropy(
        features,
        weight,
        targets,
        bias=bias,
        vocabulary=model.vocabulary,
        label_smoothing=label_smoothing if features.requires_grad else 0.0,
        cap=logit_cap_of(model),
    )
    return Loss(total, batch.weight)

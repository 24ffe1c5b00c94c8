"""What computing a gradient needs of a trainer, so that steps, updates and proofs need not know the trainer itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from lavra.models.protocols import Model
from lavra.objectives.base import Objective
from lavra.training.batches import Batches
from lavra.training.precision import LossScale, MasterWeights


class Learner(Protocol):
    """A model, what it learns, and where its gradients are summed. `lavra.training.trainer.Trainer` is one.

    Attributes:
        model: Model that is trained, on its device and in its compute type.
        objective: What is learned. Compiling exchanges it for one whose loss is compiled.
        batches: Source of the micro-batches.
        master_weights: Master weights, into whose gradients those of the micro-batches are summed.
        scale: Loss scale of fp16.
        device: Device that holds the model and computes.
        step: Number of steps done.
        report: Function that takes a line worth writing down.
    """

    model: Model
    objective: Objective
    batches: Batches
    master_weights: MasterWeights
    scale: LossScale
    device: torch.device
    step: int
    report: Callable[[str], None]

"""Using a model without training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Switch dropout and its like off for the block, and back to what it was.

    Gradients are not switched off: pair it with `torch.no_grad` (not `inference_mode`, whose tensors, once a model has
    cached them, can never be trained with).
    """
    if not isinstance(model, torch.nn.Module):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def device_of(model: object) -> torch.device:
    """Return the device of a model's first parameter, the CPU if it has none."""
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")

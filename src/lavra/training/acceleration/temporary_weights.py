"""Blocks inside which a model has other weights: fp32 ones, or small random ones where all are zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lavra.models.transforms.quantizing import is_quantized
from lavra.training.learner import Learner


@contextmanager
def full_precision(trainer: Learner) -> Iterator[None]:
    """Let the model compute in fp32 with its learned weights, whatever its training precision; nothing is copied."""
    master_weights = trainer.master_weights
    master_weights.clear()
    try:
        with master_weights.in_full_precision(trainer.model):  # pyright: ignore[reportArgumentType]
            yield
    finally:
        master_weights.clear()


@contextmanager
def widened(model: nn.Module) -> Iterator[None]:
    """Let the model compute in fp32 with the values that its weights have now, rounded as they are."""
    parameters = [part for part in model.parameters() if part.dtype in (torch.bfloat16, torch.float16)]
    before = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
        if not is_quantized(parameter):
            parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, data in zip(parameters, before, strict=True):
            parameter.grad = None
            parameter.data = data


@contextmanager
def lively(trainer: Learner, *, frozen: bool = True) -> Iterator[None]:
    """Give tensors that are all zero small random values for the block.

    Weights that start at zero stop every gradient and every influence behind them, which would hide what is looked for.

    Args:
        trainer: whose model it is.
        frozen: tensors that do not learn, too; a checkpoint does not hold what those are given.
    """
    zeros = [
        parameter
        for parameter in trainer.model.parameters()
        if (frozen or parameter.requires_grad) and not parameter.detach().any()
    ]
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.no_grad():
        for parameter in zeros:
            noise = torch.empty(parameter.shape, device="cpu").normal_(std=0.02, generator=generator)
            parameter.copy_(noise)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter in zeros:
                parameter.zero_()

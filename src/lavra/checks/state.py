"""Blocks inside which a check may do as it likes: afterwards the trainer is what it was, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from lavra.models.batch import Batch
from lavra.objectives.base import Objective
from lavra.training.batches import Ranks
from lavra.training.trainer import Trainer


class GivenBatches:
    """Stands in for a `BatchSource`: the given batches, over and over.

    Args:
        steps: the micro-batches of each step; after the last, the first comes again.
        seed: for dropout.
    """

    ranks = Ranks()

    def __init__(self, steps: Sequence[Sequence[Batch]], seed: int) -> None:
        self.given, self.seed, self.steps = steps, seed, len(steps)
        self.micro_rows = self.share = self.rows_per_step = steps[0][0].inputs.shape[0]

    def micro_batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of `step`."""
        return list(self.given[step % len(self.given)])

    def close(self) -> None:
        """Nothing to stop."""


@contextmanager
def full_precision(trainer: Trainer) -> Iterator[None]:
    """Let the model compute in fp32 with its learned weights, whatever its training precision; nothing is copied."""
    masters = trainer.masters
    if not masters.separate:
        yield
        return
    parameters = dict(trainer.model.named_parameters())
    working = {name: parameter.data for name, parameter in parameters.items()}
    masters.clear()
    for name, parameter in parameters.items():
        parameter.data = masters.weights[name] if name in masters.weights else parameter.data.float()
    try:
        yield
    finally:
        masters.clear()
        for name, parameter in parameters.items():
            parameter.grad = None
            parameter.data = working[name]


@contextmanager
def lively(trainer: Trainer, *, frozen: bool = True) -> Iterator[None]:
    """Give tensors that are all zero small random values for the block.

    Weights that start at zero stop every gradient and every influence behind them, which would hide what the
    structural checks look for.

    Args:
        trainer: whose model it is.
        frozen: tensors that do not learn, too; a checkpoint does not hold what those are given.
    """
    zeros = [
        parameter
        for parameter in trainer.model.parameters()
        if (frozen or parameter.requires_grad) and not parameter.detach().any()
    ]
    generator = torch.Generator(device="cpu").manual_seed(0)
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


@contextmanager
def restored(trainer: Trainer) -> Iterator[None]:
    """Let the trainer take steps during the block, then put weights, optimisers, updates and counters back."""
    tensors = {
        group: {name: tensor.detach().clone() for name, tensor in named.items()}
        for group, named in trainer.tensors().items()
    }
    state, excluded = copy.deepcopy(trainer.state()), set(trainer.excluded)
    batches, objective, updates = trainer.batches, trainer.objective, trainer.updates
    schedule, length = trainer.schedule, trainer.steps
    try:
        yield
    finally:
        trainer.batches, trainer.objective, trainer.updates = batches, objective, updates
        trainer.schedule, trainer.steps = schedule, length
        trainer.masters.clear()
        trainer.restore(tensors.__getitem__, state)
        trainer.excluded = excluded


def train_on(trainer: Trainer, objective: Objective, steps: Sequence[Sequence[Batch]]) -> None:
    """Give the trainer other batches and the objective that made them; to be used inside `restored`."""
    trainer.batches = GivenBatches(steps, trainer.batches.seed)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.objective = objective

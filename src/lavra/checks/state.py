"""Blocks inside which a check may do as it likes: afterwards the trainer is what it was, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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

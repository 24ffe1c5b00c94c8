"""Sandbox for checks: context managers in which a check may train, and that restore the trainer bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lavra.models.protocols import Batch
from lavra.objectives.base import Objective
from lavra.training.batches import DistributedInfo
from lavra.training.step import Step
from lavra.training.trainer import Trainer
from lavra.training.updates import Outcome, Update
from lavra.training.updates.base import Inner


class GivenBatches:
    """Source of micro-batches that repeats given ones.

    Args:
        steps: Micro-batches of each step; after the last step, the first is repeated.
        seed: Random seed, which dropout uses.
    """

    distributed = DistributedInfo()

    def __init__(self, steps: Sequence[Sequence[Batch]], seed: int) -> None:
        self.given, self.seed, self.steps = steps, seed, len(steps)
        self.micro_batch_size = self.share = self.global_batch_size = steps[0][0].inputs.shape[0]

    def micro_batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of a step, counted from 0."""
        return list(self.given[step % len(self.given)])

    def close(self) -> None:
        """Do nothing, since there is no thread to stop."""


@contextmanager
def restored(trainer: Trainer) -> Iterator[None]:
    """Let the trainer take steps during the block, then restore its weights, optimisers, updates and counters."""
    tensors = {
        group: {name: tensor.detach().clone() for name, tensor in named.items()}
        for group, named in trainer.tensors().items()
    }
    state, excluded = copy.deepcopy(trainer.state()), set(trainer.excluded)
    batches, objective, updates = trainer.batches, trainer.objective, trainer.updates
    schedule, length = trainer.schedule, trainer.steps
    trainer.updates = [update for update in updates if not update.observes]
    try:
        yield
    finally:
        trainer.batches, trainer.objective, trainer.updates = batches, objective, updates
        trainer.schedule, trainer.steps = schedule, length
        trainer.master_weights.clear()
        trainer.restore(tensors.__getitem__, state)
        trainer.excluded = excluded


def train_on(trainer: Trainer, objective: Objective, steps: Sequence[Sequence[Batch]]) -> None:
    """Replace the batches and the objective of a trainer; to be used inside `restored`.

    Args:
        trainer: Trainer to change.
        objective: Objective that encoded the batches.
        steps: Micro-batches of each step; after the last step, the first is repeated.
    """
    trainer.batches = GivenBatches(steps, trainer.batches.seed)
    trainer.objective = objective


# Updates for the steps that checks take: they skip the optimiser step, or update a part of the weights in turn.

_PARAMETERS_AT_ONCE = 8_000_000
"""Number of parameters of matrices that Muon, or another heavy optimiser, updates in one step of a check on a CPU:
about a second of work."""


class Stay(Update):
    """Update that skips the optimiser step, so that gradients are computed and the weights stay the same."""

    name = "stay"

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Skip the step and return an outcome that says so."""
        return Outcome(applied=False, reason="only measured")


def only_measuring() -> list[Update]:
    """Return updates with which a step computes its gradient and leaves the weights unchanged."""
    return [Stay()]


class InTurn(Stay):
    """Update that lets the matrices of heavy optimisers, such as Muon, train in turn, a part of them in each step.

    On a CPU, the update of all matrices of a large model would take many seconds. All other weights always train.

    Args:
        trainer: Trainer whose weights are updated.

    Attributes:
        turns: Number of steps after which every matrix was updated once.
        learned: Number of times that each weight was passed to the optimiser, by name.
    """

    name = "in_turn"

    def __init__(self, trainer: Trainer) -> None:
        weights = trainer.master_weights.weights
        heavy = {
            id(weight)
            for optimizer in trainer.optimizers.optimizers
            if optimizer.heavy
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        names = [name for name, weight in weights.items() if id(weight) in heavy]
        size = sum(weights[name].numel() for name in names) if trainer.device.type == "cpu" else 0
        self.turns = max(1, -(-size // _PARAMETERS_AT_ONCE))
        self.place = {name: number % self.turns for number, name in enumerate(names)}
        self.weights = weights
        self.learned = dict.fromkeys(weights, 0)

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Clear the gradients of the weights whose turn it is not, perform the step, and return its outcome."""
        for name, weight in self.weights.items():
            if self.place.get(name, step.number % self.turns) != step.number % self.turns:
                weight.grad = None
            else:
                self.learned[name] += 1
        return inner()

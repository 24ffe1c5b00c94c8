"""Blocks inside which a check may do as it likes: afterwards the trainer is what it was, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lavra.models.contract import Batch
from lavra.objectives.base import Objective
from lavra.training.batches import Ranks
from lavra.training.optimizers.muon import Muon
from lavra.training.step import Step
from lavra.training.trainer import Trainer
from lavra.training.updates import Outcome, Update
from lavra.training.updates.base import Inner


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


# Updates for the steps that checks take: none at all, or a part of the weights in turn where steps are slow.

_PARAMETERS_AT_ONCE = 8_000_000
"""Of matrices that Muon orthogonalises, on a CPU: about a second's work."""


class Stay:
    """Computes gradients and leaves the weights where they are."""

    name = "stay"

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Leave the step out."""
        return Outcome(applied=False, reason="only measured")

    def state_dict(self) -> dict[str, Any]:
        """There is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def only_measuring() -> list[Update]:
    """Return a chain under which a step computes its gradient, and nothing moves."""
    return [Stay()]


class InTurn(Stay):
    """Lets the matrices of Muon learn in turn, where all at once would take many seconds; all others always learn.

    Args:
        trainer: whose weights.

    Attributes:
        learned: how often each weight was given to the optimiser.
    """

    name = "in_turn"

    def __init__(self, trainer: Trainer) -> None:
        weights = trainer.masters.weights
        heavy = {
            id(weight)
            for optimizer in trainer.optimizers.optimizers
            if isinstance(optimizer, Muon)
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
        """Forget the gradients of the weights whose turn it is not, and do the step."""
        for name, weight in self.weights.items():
            if self.place.get(name, step.number % self.turns) != step.number % self.turns:
                weight.grad = None
            else:
                self.learned[name] += 1
        return inner()

"""The averaged weights of a schedule-free optimiser, which are validated and exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lavra.training.optimizers.optimizers import Optimizers
from lavra.training.optimizers.schedule_free import ScheduleFreeAdamW
from lavra.training.precision import MasterWeights
from lavra.training.updates.averages import exchanged
from lavra.training.updates.base import Update


class ScheduleFreeWeights(Update):
    """Update that lets the model compute with the averages of schedule-free AdamW while it is evaluated.

    It has no state: the averages follow from the weights and from the state of the optimiser.

    Args:
        master_weights: Master weights of the model that is trained.
        optimizers: Optimisers of the run.
    """

    name = "schedule_free"

    def __init__(self, master_weights: MasterWeights, optimizers: Optimizers) -> None:
        self.master_weights, self.optimizers = master_weights, optimizers

    @contextmanager
    def eval_weights(self) -> Iterator[None]:
        """Let the model compute with the averages during the block, then restore the raw weights exactly."""
        (optimizer,) = (one for one in self.optimizers.optimizers if isinstance(one, ScheduleFreeAdamW))
        weights = self.master_weights.weights.items()
        with exchanged(self.master_weights, {name: optimizer.averaged(weight) for name, weight in weights}):
            yield

"""Averages of the weights over training, which are validated and exported while the raw weights go on training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from lavra.training.precision import MasterWeights
from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome, Update


@contextmanager
def exchanged(master_weights: MasterWeights, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let the model compute with other weights during the block, then restore the raw weights exactly.

    Args:
        master_weights: Master weights of the model.
        values: Values of all of them, by name.
    """
    raw = {name: weight.detach().clone() for name, weight in master_weights.weights.items()}
    try:
        master_weights.load(dict(values))
        yield
    finally:
        master_weights.load(raw)


class _Averaged(Update):
    """Keeps fp32 averages of the master weights, and loads them into the model for evaluation.

    Args:
        master_weights: Master weights of the model that is trained.

    Attributes:
        averages: Averaged tensors by parameter name; empty before the first step is averaged.
    """

    def __init__(self, master_weights: MasterWeights) -> None:
        self.master_weights = master_weights
        self.averages: dict[str, torch.Tensor] = {}

    @contextmanager
    def eval_weights(self) -> Iterator[None]:
        """Let the model compute with the averages during the block, then restore the raw weights exactly.

        Before any step was averaged, the model keeps its raw weights.
        """
        with exchanged(self.master_weights, self.averages) if self.averages else nullcontext():
            yield

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the averages by parameter name, for a checkpoint."""
        return self.averages

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore the averages that `tensors` returned; an empty mapping means that nothing was averaged yet."""
        # In the order of the weights, since a file has its own order and `_move` pairs the two lists by position.
        weights = self.master_weights.weights.items() if tensors else ()
        self.averages = {name: tensors[name].to(weight.device, copy=True) for name, weight in weights}

    @torch.no_grad()
    def _start(self) -> None:
        self.averages = {name: weight.detach().clone() for name, weight in self.master_weights.weights.items()}

    @torch.no_grad()
    def _move(self, share: float) -> None:
        """Move every average towards its weight: average += share * (weight - average)."""
        torch._foreach_lerp_(list(self.averages.values()), list(self.master_weights.weights.values()), share)


class ExponentialAverage(_Averaged):
    """Exponential moving average (EMA) of the weights (averaging of iterates: Polyak and Juditsky 1992).

    After each applied step, average = decay * average + (1 - decay) * weight.

    Args:
        master_weights: Master weights that are averaged.
        decay: Share of the average that a step keeps, from 0 to below 1. With 0 the average equals the weights.

    Examples:
        >>> master_weights = MasterWeights(torch.nn.Linear(2, 1), "fp32")
        >>> update = ExponentialAverage(master_weights, decay=0.99)
        >>> update.around(None, Outcome).applied
        True
        >>> sorted(update.tensors())
        ['bias', 'weight']
    """

    name = "ema"

    def __init__(self, master_weights: MasterWeights, decay: float = 0.999) -> None:
        super().__init__(master_weights)
        self.decay = decay

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Apply the step, then move the average towards the new weights; a skipped step changes nothing."""
        outcome = inner()
        if not outcome.applied:
            return outcome
        if not self.averages:
            self._start()
        elif self.decay == 0.0:
            self._copy()
        else:
            self._move(1.0 - self.decay)
        return outcome

    @torch.no_grad()
    def _copy(self) -> None:
        torch._foreach_copy_(list(self.averages.values()), list(self.master_weights.weights.values()))


class SnapshotAverage(_Averaged):
    """Stochastic weight averaging (SWA, arXiv 1803.05407): the mean of regular snapshots from the end of a run.

    Args:
        master_weights: Master weights that are averaged.
        begin: Step of the first snapshot, counted from 0.
        every: Steps between two snapshots; values below 1 count as 1.
    """

    name = "swa"

    def __init__(self, master_weights: MasterWeights, begin: int, every: int = 10) -> None:
        super().__init__(master_weights)
        self.begin, self.every = begin, max(1, every)
        self.count = 0

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Apply the step, then add the new weights to the mean if a snapshot is due."""
        outcome = inner()
        if outcome.applied and step.number >= self.begin and (step.number - self.begin) % self.every == 0:
            self.count += 1
            if self.count == 1:
                self._start()
            else:
                self._move(1.0 / self.count)  # running mean: m_n = m_(n-1) + (w_n - m_(n-1)) / n
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """Return the number of snapshots in the mean."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of snapshots in the mean."""
        self.count = state["count"]

"""Averaged weights: they are validated and exported, while the raw ones go on learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from lavra.training.precision import Masters
from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome


class _Averaged:
    """Keeps fp32 averages of the masters, and puts them into the model for evaluation."""

    def __init__(self, masters: Masters) -> None:
        self.masters = masters
        self.averages: dict[str, torch.Tensor] = {}

    @contextmanager
    def eval_weights(self) -> Iterator[None]:
        """Put the averages, once there are any, into the model during the block; the raw weights come back exactly."""
        if not self.averages:
            yield
            return
        weights = self.masters.weights
        raw = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            self.masters.load(self.averages)
            yield
        finally:
            self.masters.load(raw)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the averages."""
        return self.averages

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore the averages."""
        # In the order of the weights: a file has an order of its own, and the lists below are walked together.
        weights = self.masters.weights.items() if tensors else ()
        self.averages = {name: tensors[name].to(weight.device, copy=True) for name, weight in weights}

    @torch.no_grad()
    def _start(self) -> None:
        self.averages = {name: weight.detach().clone() for name, weight in self.masters.weights.items()}

    @torch.no_grad()
    def _move(self, share: float) -> None:
        """Move the averages by `share` of the way to the weights."""
        torch._foreach_lerp_(list(self.averages.values()), list(self.masters.weights.values()), share)


class ExponentialAverage(_Averaged):
    """An exponential moving average (Polyak and Juditsky 1992); with decay 0 it is the weights themselves.

    Args:
        masters: whose weights.
        decay: share of the average that a step keeps.
    """

    name = "ema"

    def __init__(self, masters: Masters, decay: float = 0.999) -> None:
        super().__init__(masters)
        self.decay = decay

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Do the step, then move the average towards the new weights."""
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
        torch._foreach_copy_(list(self.averages.values()), list(self.masters.weights.values()))

    def state_dict(self) -> dict[str, Any]:
        """All state is in the tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class SnapshotAverage(_Averaged):
    """The mean of regular snapshots of the last part of a run (stochastic weight averaging, arXiv 1803.05407).

    Args:
        masters: whose weights.
        begin: step (from 0) of the first snapshot.
        every: steps between snapshots.
    """

    name = "swa"

    def __init__(self, masters: Masters, begin: int, every: int = 10) -> None:
        super().__init__(masters)
        self.begin, self.every = begin, max(1, every)
        self.count = 0

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Do the step, then take a snapshot if one is due."""
        outcome = inner()
        if outcome.applied and step.number >= self.begin and (step.number - self.begin) % self.every == 0:
            self.count += 1
            if self.count == 1:
                self._start()
            else:
                self._move(1.0 / self.count)
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """Return the number of snapshots taken."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of snapshots."""
        self.count = state["count"]

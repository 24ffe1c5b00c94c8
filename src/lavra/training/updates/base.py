"""The contract of an update, and the chain that nests them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from lavra.training.step import Step


@dataclass
class Outcome:
    """What became of a step.

    Attributes:
        applied: whether the weights were updated.
        reason: why not.
        metrics: figures for the log.
    """

    applied: bool = True
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


Inner = Callable[[], Outcome]


class Update(Protocol):
    """Something around the step: it may change gradients before, weights after, or leave the step out."""

    name: str

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Do the step by calling `inner` (once), or skip it by not calling it. `step.backward()` was done already."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        ...


@runtime_checkable
class HoldsTensors(Protocol):
    """An update with tensors to save, such as averaged weights."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name."""
        ...

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore the tensors."""
        ...


@runtime_checkable
class HasEvalWeights(Protocol):
    """An update whose weights, not the raw ones, are validated and exported."""

    def eval_weights(self) -> AbstractContextManager[None]:
        """Put the weights for evaluation into the model during the block."""
        ...


def run_chain(updates: Sequence[Update], step: Step, innermost: Inner) -> Outcome:
    """Run `innermost` inside all updates, the first outermost."""
    call = innermost
    for update in reversed(updates):
        call = _bound(update, step, call)
    return call()


def _bound(update: Update, step: Step, inner: Inner) -> Inner:
    return lambda: update.around(step, inner)

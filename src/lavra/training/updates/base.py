"""The protocol of an update, and the function that nests updates around an optimiser step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from lavra.training.step import Step


@dataclass
class Outcome:
    """Result of one optimiser step.

    Attributes:
        applied: True if the weights were updated, False if the step was skipped.
        reason: Why the step was skipped, in words; empty for an applied step.
        metrics: Figures by name that are added to the line of this step in `metrics.jsonl`.
    """

    applied: bool = True
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


Inner = Callable[[], Outcome]
"""Function without arguments that performs the rest of a step and returns its outcome."""


class Update(Protocol):
    """A technique that wraps the optimiser step: it may change gradients before, weights after, or skip the step."""

    name: str

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Perform the step by calling `inner` once, or skip it by not calling it, and return the outcome.

        Args:
            step: The step, whose gradients are computed already: `step.backward()` was called.
            inner: The updates further inside, and at last the optimiser step itself.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@runtime_checkable
class HoldsTensors(Protocol):
    """An update with tensors that belong into a checkpoint, such as averaged weights."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name."""
        ...

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `tensors` returned."""
        ...


@runtime_checkable
class HasEvalWeights(Protocol):
    """An update that keeps other weights than the raw ones, which are validated and exported in their place."""

    def eval_weights(self) -> AbstractContextManager[None]:
        """Return a context manager during whose block the model holds the weights for evaluation."""
        ...


def run_chain(updates: Sequence[Update], step: Step, innermost: Inner) -> Outcome:
    """Perform a step inside all updates and return its outcome.

    Args:
        updates: The updates, outermost first.
        step: The step, whose gradients are computed already.
        innermost: Function that applies the optimiser step itself.
    """
    call = innermost
    for update in reversed(updates):
        call = _bound(update, step, call)
    return call()


def _bound(update: Update, step: Step, inner: Inner) -> Inner:
    return lambda: update.around(step, inner)

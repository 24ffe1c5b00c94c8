"""The base class of updates, and the function that nests updates around an optimiser step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

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


class Update:
    """A technique that wraps the optimiser step: it may change gradients before, weights after, or skip the step.

    A subclass names itself and overrides `around`. By itself an update has no state: one that remembers something
    overrides `state_dict` and `load_state_dict`, and where it is large, `tensors` and `load_tensors`. One that keeps
    other weights than the raw ones overrides `eval_weights`.

    Attributes:
        name: Name of the update, under which a checkpoint holds its state; no two updates of a run share one.
        gradients_per_step: Mean number of gradients that a step takes with this update alone. It is 1 for an update
            that works with the gradient that is there, and 2 for one that calls `step.backward()` once more in every
            step, as sharpness-aware minimisation does. Plans multiply the cost of a step by it.
        gradient_share: Share of the rows of a step of which `around` finds the gradient, above 0 and at most 1. An
            update that asks for less computes the gradient of the whole step itself.
        observes: Whether the update only records what it sees, so that checks, whose steps are taken back, leave it
            out.

    Examples:
        >>> class Nothing(Update):
        ...     name = "nothing"
        >>> Nothing().around(None, Outcome).applied, Nothing().state_dict(), Nothing().tensors()
        (True, {}, {})
    """

    name: str
    gradients_per_step: float = 1.0
    gradient_share: float = 1.0
    observes: bool = False

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Perform the step by calling `inner` once, or skip it by not calling it, and return the outcome.

        Args:
            step: The step, whose gradients are computed already: `step.backward()` was called.
            inner: The updates further inside, and at last the optimiser step itself.
        """
        return inner()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: What `state_dict` returned when the checkpoint was saved.
        """

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the state by name, for a checkpoint; an empty mapping takes no file."""
        return {}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore what `tensors` returned.

        Args:
            tensors: Tensors by name, on the CPU; empty where there was none when the checkpoint was saved.
        """

    def eval_weights(self) -> AbstractContextManager[None]:
        """Return a context manager during whose block the model holds the weights that are validated and exported."""
        return nullcontext()


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

"""The factor on the summed loss that a training step back-propagates, for layers that add a loss of their own.

A step divides the sum of its losses by the weight of all its targets, and multiplies it by a scale in fp16, before the
backward pass. The auxiliary loss of a mixture of experts enters the gradient inside of that pass, where nothing tells
how large the factor was; so the step says it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_factor = 1.0


def loss_factor() -> float:
    """Return the factor on the loss of the backward pass that is going on; 1 where nothing was said."""
    return _factor


@contextmanager
def scaled_loss(factor: float) -> Iterator[None]:
    """Let layers know the factor on the summed loss during a backward pass.

    The backward pass may run in threads of its own, so that the factor is one for the process.

    Args:
        factor: Factor by which the sum of the losses is multiplied before it is back-propagated.

    Examples:
        >>> with scaled_loss(0.5):
        ...     loss_factor()
        0.5
    """
    global _factor
    before, _factor = _factor, factor
    try:
        yield
    finally:
        _factor = before

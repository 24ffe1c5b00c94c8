"""From nats to perplexity."""

from __future__ import annotations

import math


def perplexity_of(loss: float) -> float:
    """Return exp(loss) for a mean loss in nats; infinite where it overflows, or the loss is not a number."""
    return math.exp(loss) if loss < 700 else math.inf

"""What reading the same text again is worth."""

from __future__ import annotations

import math

HALF_LIFE = 15.39
"""R*_D of arXiv 2305.16264 (§4, table of fitted constants): repetitions after which 1 - 1/e of all that repeating can
give is had."""

NEARLY_NEW = 4.0
"""Up to this many epochs, repeated text is worth almost as much as new text (arXiv 2305.16264, §1)."""


def worth(epochs: float) -> float:
    """Return how many epochs of new text are worth `epochs` of the same: D'/U = 1 + R* (1 - exp(-R / R*)).

    R = epochs - 1 repetitions; equation 5 of arXiv 2305.16264. Up to one epoch all is new.
    """
    repetitions = epochs - 1.0
    if repetitions <= 0.0:
        return epochs
    return 1.0 + HALF_LIFE * (1.0 - math.exp(-repetitions / HALF_LIFE))


def effective_tokens(tokens: float, unique: float) -> float:
    """Return how many tokens of new text are worth `tokens` read from a text of `unique` tokens."""
    return tokens if tokens <= unique else unique * worth(tokens / unique)


def repetition_note(epochs: float) -> str | None:
    """Return a warning where so many epochs teach clearly less than new text would, in words; None otherwise."""
    if epochs <= NEARLY_NEW:
        return None
    share = worth(epochs) / epochs
    return (
        f"the text would be read {epochs:.1f} times; past {NEARLY_NEW:.0f} epochs repetition teaches less and less: "
        f"these are worth {worth(epochs):.1f} epochs of new text, {share:.0%} of what is paid for. "
        "A larger model, more text, or a shorter run uses the time better"
    )

"""How much text a row of a model has room for, where an objective lays a text out with more tokens than it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """How much text a row holds, and what the model must read for it.

    Attributes:
        context: Tokens of text of a row, in which a plan counts.
        model_context: Tokens of the longest sequence that the model reads for a text of that length.
        growth: Tokens that the model computes for each token of text, on average over long texts.
        bidirectional: Whether the model attends in both directions within a prefix.
    """

    context: int
    model_context: int
    growth: float = 1.0
    bidirectional: bool = False


def largest_text(longest: Callable[[int], int], wanted: int, limit: int | None) -> int:
    """Return the tokens of text of a row: as many as are wanted, or as the model's context allows.

    Args:
        longest: Function from tokens of text to those of the longest sequence that they may become.
        wanted: Tokens of text that are wanted.
        limit: Most tokens of a sequence; None for no limit.
    """
    if limit is None or longest(wanted) <= limit:
        return wanted
    found = next((length for length in range(min(wanted, limit), 0, -1) if longest(length) <= limit), 1)
    return found - found % 8 if found > 8 else found

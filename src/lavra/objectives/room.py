"""How much text a row of a model has room for, where an objective lays a text out with more tokens than it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """How much text a row holds, and what the model must read for it.

    Attributes:
        context: Tokens of text of a row, in which a plan counts.
        model_context: Tokens of the longest sequence that the model reads for a text of that length.
        growth: Tokens that the model computes for each token of text, on average over long texts.
        bidirectional: Whether the model attends in both directions within a prefix.
        lengths: Positions that the decoder and the encoder compute for each token of text, with the padding to the
            longest row of a micro-batch; None means `growth` for the only stack of blocks.
        targets: Targets for each token of text, at which the head is computed; None where the task says it, see
            `Task.predicted`.
        generator: Width, as a share of the model's, of a generator that reads the same rows and learns beside the
            model; 0 for none.
    """

    context: int
    model_context: int
    growth: float = 1.0
    bidirectional: bool = False
    lengths: tuple[float, float] | None = None
    targets: float | None = None
    generator: float = 0.0


ROWS = 16
"""Rows of a micro-batch that is assumed where the padding to its longest row is reckoned."""


def expected_longest(chances: Iterable[tuple[float, float]], rows: int = ROWS) -> float:
    """Return the mean length of the longest of some rows.

    Args:
        chances: Probability and length of each kind of row; the probabilities add up to 1.
        rows: Number of rows.

    Examples:
        >>> expected_longest([(0.5, 8.0), (0.5, 16.0)], rows=2)
        14.0
    """
    mean = below = 0.0
    for probability, length in sorted(chances, key=lambda one: one[1]):
        share = min(1.0, below + probability)
        mean += (share**rows - below**rows) * length
        below = share
    return mean


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

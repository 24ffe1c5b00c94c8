"""Patterns of noise: which positions of a text are hidden.

A pattern draws a mask and knows nothing of tokens; a layout (`lavra.objectives.denoise.layouts`) makes of the mask what
a model reads and predicts. Every pattern hides at least one position of a text that has any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lavra.config.denoising import Denoiser


class Pattern(Protocol):
    """A rule by which positions of a text are hidden."""

    def hidden(self, length: int, stream: np.random.Generator) -> np.ndarray:
        """Return which positions are hidden, (length,) bool.

        Args:
            length: Number of positions; 0 gives an empty mask.
            stream: Random generator.
        """
        ...

    def most(self, length: int) -> tuple[int, int]:
        """Return the most positions and the most spans that are hidden of a text of a length.

        Args:
            length: Number of positions.
        """
        ...


@dataclass(frozen=True)
class Spans:
    """Spans of random lengths with random gaps: the rule of T5 (Raffel et al. 2019, arXiv 1910.10683, section 3.3.4).

    The number of hidden tokens is the rate times the length, and that of spans is the former by the mean length, both
    rounded; where the borders fall is drawn uniformly. As in the code of T5, a text begins with a visible span and ends
    with a hidden one. A text of one token is hidden altogether.

    Attributes:
        rate: Share of the positions that are hidden.
        mean: Mean length of a span.
        limit: Most spans in a text, because each has a sentinel of its own; longer texts then have longer spans.

    Examples:
        >>> Spans(0.5, 2.0).hidden(8, np.random.default_rng(0)).astype(int).tolist()
        [0, 0, 0, 1, 1, 1, 0, 1]
    """

    rate: float
    mean: float
    limit: int = 100

    def most(self, length: int) -> tuple[int, int]:
        """Return the number of hidden positions and of spans, which depend on the length alone."""
        if length < 2:
            return length, length
        hidden = min(max(1, round(self.rate * length)), length - 1)
        spans = min(max(1, round(hidden / self.mean)), hidden, length - hidden, self.limit)
        return hidden, spans

    def hidden(self, length: int, stream: np.random.Generator) -> np.ndarray:
        """Return the mask of the hidden spans, (length,) bool."""
        hidden, spans = self.most(length)
        if length < 2:
            return np.ones(length, bool)
        sizes = np.empty(2 * spans, np.int64)
        sizes[0::2] = _segments(length - hidden, spans, stream)
        sizes[1::2] = _segments(hidden, spans, stream)
        return np.repeat(np.arange(2 * spans) % 2 == 1, sizes)


@dataclass(frozen=True)
class Suffix:
    """The end of a text, from a place that is drawn uniformly: the prefix language model.

    Attributes:
        rate: Mean share of the positions that are hidden, which is drawn from 0 to twice this, at most to the whole.
    """

    rate: float

    def most(self, length: int) -> tuple[int, int]:
        """Return the most positions that are hidden, and one span."""
        return min(length, max(1, round(min(1.0, 2 * self.rate) * length))), min(length, 1)

    def hidden(self, length: int, stream: np.random.Generator) -> np.ndarray:
        """Return the mask of the hidden end, (length,) bool."""
        share = stream.random() * min(1.0, 2 * self.rate)
        return np.arange(length) >= length - max(1, round(share * length))


@dataclass(frozen=True)
class Middle:
    """What lies between two places that are drawn uniformly: filling in the middle (arXiv 2207.14255, section 3)."""

    def most(self, length: int) -> tuple[int, int]:
        """Return all positions, and one span."""
        return length, min(length, 1)

    def hidden(self, length: int, stream: np.random.Generator) -> np.ndarray:
        """Return the mask of the hidden middle, (length,) bool; of two equal places the next position is hidden."""
        first, last = sorted(int(place) for place in stream.integers(length + 1, size=2))
        first = min(first, max(0, length - 1))
        return (np.arange(length) >= first) & (np.arange(length) < max(last, first + 1))


@dataclass(frozen=True)
class Tokens:
    """Single positions, each with the same probability: masked language modelling.

    Attributes:
        rate: Share of the positions that are hidden.
    """

    rate: float

    def most(self, length: int) -> tuple[int, int]:
        """Return all positions, and as many spans as can stand apart."""
        return length, (length + 1) // 2

    def hidden(self, length: int, stream: np.random.Generator) -> np.ndarray:
        """Return the mask of the hidden positions, (length,) bool."""
        drawn = stream.random(length)
        return (drawn < self.rate) | (drawn == drawn.min(initial=np.inf)) if length else drawn < 0


def pattern_of(denoiser: Denoiser, limit: int) -> Spans | Suffix:
    """Return the pattern of a denoiser.

    Args:
        denoiser: Denoiser of a mixture.
        limit: Most spans in a text.
    """
    return Suffix(denoiser.rate) if denoiser.mean is None else Spans(denoiser.rate, denoiser.mean, limit)


def _segments(total: int, parts: int, stream: np.random.Generator) -> np.ndarray:
    """Return the sizes of `parts` parts of at least one that make up `total`, each division equally likely."""
    borders = np.sort(stream.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], borders, [total]]))

"""The data usage of a run: how many tokens of each source it has been trained on, and how many are left."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lavra.data.shuffle import WindowShuffle
from lavra.data.token_store.store import TokenStore

_BLOCK = 1 << 20  # windows whose places are computed at once


@dataclass(frozen=True, slots=True)
class SourceUsage:
    """The tokens of one source on which a run has been trained.

    Attributes:
        name: Name of the source.
        tokens: Number of tokens of the source.
        seen: Number of tokens trained on in the current epoch.
        left: Number of tokens left in the current epoch: `tokens - seen`.
        total: Number of tokens trained on since the run began: complete epochs times `tokens`, plus `seen`.
    """

    name: str
    tokens: int
    seen: int
    left: int
    total: int


@dataclass(frozen=True, slots=True)
class DataUsage:
    """The data usage of a run after some windows.

    Attributes:
        epochs: Number of complete epochs.
        sources: The usage of each source, in the order of the store.
    """

    epochs: int
    sources: tuple[SourceUsage, ...]

    @property
    def tokens(self) -> int:
        """Number of tokens of one epoch."""
        return sum(source.tokens for source in self.sources)

    @property
    def seen(self) -> int:
        """Number of tokens trained on in the current epoch."""
        return sum(source.seen for source in self.sources)

    @property
    def left(self) -> int:
        """Number of tokens left in the current epoch."""
        return sum(source.left for source in self.sources)

    @property
    def total(self) -> int:
        """Number of tokens trained on since the run began."""
        return sum(source.total for source in self.sources)

    def to_json(self) -> dict[str, Any]:
        """Return the data usage as plain values."""
        sums = {"tokens": self.tokens, "seen": self.seen, "left": self.left, "total": self.total}
        return {"epochs": self.epochs, **sums, "sources": [asdict(source) for source in self.sources]}


def data_usage(store: TokenStore, order: WindowShuffle, windows_done: int) -> DataUsage:
    """Return the data usage after the first `windows_done` windows of the order.

    Time and memory grow with the number of windows of one epoch, whatever the number of epochs.

    Args:
        store: The token store that the run is trained on.
        order: The order of the run's windows.
        windows_done: Number of windows trained on.
    """
    epochs, within = divmod(windows_done, order.windows)
    seen = _seen_before(order, epochs, within, store.source_bounds)
    usages = []
    for source, tokens in zip(store.manifest.sources, np.diff(seen).tolist(), strict=True):
        left = source.tokens - tokens
        usages.append(SourceUsage(source.name, source.tokens, tokens, left, epochs * source.tokens + tokens))
    return DataUsage(epochs, tuple(usages))


def _seen_before(order: WindowShuffle, epoch: int, within: int, bounds: np.ndarray) -> np.ndarray:
    """Return how many targets before each position of `bounds` are in the first `within` windows of the epoch.

    The windows are laid end to end from the phase of the epoch on. Prefix sums over those that were visited then answer
    each position in constant time; a stretch that runs past the end of the stream is counted in two parts.
    """
    taken = np.zeros(order.windows, bool)
    for start in range(0, within, _BLOCK):
        taken[order.permuted(epoch, np.arange(start, min(start + _BLOCK, within)))] = True
    before = np.concatenate([[0], np.cumsum(taken, dtype=np.int64)])

    def taken_before(place: np.ndarray) -> np.ndarray:
        """Return the number of targets trained on among the first `place` when the windows are laid end to end."""
        index, rest = np.divmod(place, order.context)
        partly = taken[np.minimum(index, order.windows - 1)] * rest  # rest is 0 at the very end
        return before[index] * order.context + partly

    begin = np.full_like(bounds, -order.phase(epoch) % order.tokens)  # where the stream begins among the windows
    end = begin + bounds
    to_the_end, around = np.minimum(end, order.tokens), np.maximum(0, end - order.tokens)
    return taken_before(to_the_end) - taken_before(begin) + taken_before(around)

"""The order of training: which tokens the k-th window of a run covers, as a pure function of the seed and k.

An epoch is a permutation of windows: the circular stream of tokens, shifted by a phase drawn for the epoch, is cut into
windows of `context` targets (the last one shorter), and these are visited in a pseudo-random order. The permutation is
a Feistel network with cycle walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), so that window
10¹² costs what window 0 costs, and nothing is kept in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lavra.core.seeds import derive_seed

_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class WindowPlace:
    """Where one window lies.

    Attributes:
        epoch: from 0.
        start: position of the first target in the token stream.
        length: number of targets; the window may go on at the stream's beginning.
    """

    epoch: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class WindowPlaces:
    """Where many windows lie: (windows,) int64 arrays of what `WindowPlace` says of one."""

    epochs: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)


class WindowOrder:
    """The endless order of windows over a stream of tokens; every token is a target exactly once per epoch.

    Args:
        tokens: length of the stream.
        context: targets of a window.
        seed: another seed is another order.

    Attributes:
        windows: windows of one epoch.
    """

    def __init__(self, tokens: int, context: int, seed: int) -> None:
        if tokens < 1 or context < 1:
            raise ValueError(f"an order needs at least one token and one target, not {tokens} and {context}")
        self.tokens, self.context, self.seed = tokens, context, seed
        self.windows = -(-tokens // context)
        half = max(1, ((self.windows - 1).bit_length() + 1) // 2)
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)

    def window(self, number: int) -> WindowPlace:
        """Return where window `number` of the run lies (number // windows is its epoch)."""
        places = self.places(np.array([number]))
        return WindowPlace(int(places.epochs[0]), int(places.starts[0]), int(places.lengths[0]))

    def places(self, numbers: np.ndarray) -> WindowPlaces:
        """Return where the windows of these numbers lie; (windows,) integers in, any order, any epochs."""
        numbers = np.asarray(numbers, np.int64)
        epochs, within = np.divmod(numbers, self.windows)
        indices, phases = np.empty_like(within), np.empty_like(within)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            indices[rows] = self.permuted(int(epoch), within[rows])
            phases[rows] = self.phase(int(epoch))
        lengths = np.minimum(self.context, self.tokens - indices * self.context)
        return WindowPlaces(epochs, (phases + indices * self.context) % self.tokens, lengths)

    def phase(self, epoch: int) -> int:
        """Return the position in the stream at which the windows of an epoch begin to be cut."""
        return derive_seed(self.seed, "order", "phase", epoch) % self.tokens

    def permuted(self, epoch: int, within: np.ndarray) -> np.ndarray:
        """Return the index of the windows visited at places `within` (0 to windows - 1) of an epoch."""
        keys = _round_keys(self.seed, epoch)
        values = np.asarray(within).astype(np.uint64)
        values = self._encipher(values, keys)
        outside = np.flatnonzero(values >= self.windows)
        while len(outside):  # walk the cycle until it is within the windows again
            values[outside] = self._encipher(values[outside], keys)
            outside = outside[values[outside] >= self.windows]
        return values.astype(np.int64)

    def _encipher(self, values: np.ndarray, keys: tuple[int, ...]) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in keys:
            left, right = right, left ^ (_scramble(right ^ np.uint64(key)) & self._mask)
        return (left << self._half) | right


@lru_cache(maxsize=16)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(derive_seed(seed, "order", "permutation", epoch, number) for number in range(_ROUNDS))


def _scramble(values: np.ndarray) -> np.ndarray:
    """The finaliser of MurmurHash3: every bit of the 64 depends on every other."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))

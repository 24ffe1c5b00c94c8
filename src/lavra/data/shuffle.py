"""The shuffled order of training: which tokens the k-th window of a run covers, as a pure function of the seed and k.

An epoch is a permutation of windows: the circular stream of tokens, shifted by a phase drawn for the epoch, is cut into
windows of `context` targets (the last one shorter), and these are visited in a pseudo-random order. The permutation is
a Feistel network with cycle walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), so that window
10¹² costs what window 0 costs, and nothing is kept in memory. Cycle walking means that a number which the network maps
outside the windows is mapped again until it lies among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lavra.core.seeds import derive_seed

_ROUNDS = 8  # of the Feistel network; four are a permutation that looks random, eight leave a margin


@dataclass(frozen=True, slots=True)
class WindowPlace:
    """The place of one window in the token stream.

    Attributes:
        epoch: Number of the epoch, from 0.
        start: Position of the first target in the token stream.
        length: Number of targets. A window that reaches the end of the stream continues at its beginning.
    """

    epoch: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class WindowPlaces:
    """The places of many windows in the token stream.

    Attributes:
        epochs: (windows,) int64 numbers of the epochs, from 0.
        starts: (windows,) int64 positions of the first targets in the token stream.
        lengths: (windows,) int64 numbers of targets.
    """

    epochs: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)


class WindowShuffle:
    """The endless order of windows over a stream of tokens; every token is a target exactly once per epoch.

    Args:
        tokens: Length of the stream, at least 1.
        context: Number of targets of a window, at least 1.
        seed: Seed of the order.

    Attributes:
        windows: Number of windows of one epoch.

    Raises:
        ValueError: if there are no tokens or no targets.

    Examples:
        >>> from lavra.data.shuffle import WindowShuffle
        >>> order = WindowShuffle(tokens=10, context=4, seed=1)
        >>> order.windows
        3
        >>> places = [order.window(number) for number in range(order.windows)]
        >>> sorted((place.start + offset) % 10 for place in places for offset in range(place.length))
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(self, tokens: int, context: int, seed: int) -> None:
        if tokens < 1 or context < 1:
            raise ValueError(f"an order needs at least one token and one target, not {tokens} and {context}")
        self.tokens, self.context, self.seed = tokens, context, seed
        self.windows = -(-tokens // context)
        # The network permutes numbers of twice `half` bits, the fewest that hold every window's number.
        half = max(1, ((self.windows - 1).bit_length() + 1) // 2)
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)

    def window(self, number: int) -> WindowPlace:
        """Return the place of the window with this number in the run; its epoch is `number // windows`."""
        places = self.places(np.array([number]))
        return WindowPlace(int(places.epochs[0]), int(places.starts[0]), int(places.lengths[0]))

    def places(self, numbers: np.ndarray) -> WindowPlaces:
        """Return the places of several windows.

        Args:
            numbers: (windows,) integer numbers of the windows in the run, in any order and of any epochs.
        """
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
        """Return which windows are visited at some places of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            within: (n,) places in the order of the epoch, from 0 to `windows - 1`.

        Returns:
            (n,) int64 indices of the windows, counted from the phase of the epoch.
        """
        keys = _round_keys(self.seed, epoch)
        values = np.asarray(within).astype(np.uint64)
        values = self._encipher(values, keys)
        outside = np.flatnonzero(values >= self.windows)
        while len(outside):  # cycle walking
            values[outside] = self._encipher(values[outside], keys)
            outside = outside[values[outside] >= self.windows]
        return values.astype(np.int64)

    def _encipher(self, values: np.ndarray, keys: tuple[int, ...]) -> np.ndarray:
        # A Feistel network: each round mixes one half into the other, which can be undone, so that it is a permutation.
        left, right = values >> self._half, values & self._mask
        for key in keys:
            left, right = right, left ^ (_scramble(right ^ np.uint64(key)) & self._mask)
        return (left << self._half) | right


@lru_cache(maxsize=16)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(derive_seed(seed, "order", "permutation", epoch, number) for number in range(_ROUNDS))


def _scramble(values: np.ndarray) -> np.ndarray:
    """Return hashes of uint64 values by the finaliser of MurmurHash3: every bit depends on every other."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))

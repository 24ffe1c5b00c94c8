"""The windows of a store by their number in the run's endless order."""

from __future__ import annotations

import numpy as np

from lavra.data.order import WindowOrder
from lavra.data.packing import Window, cut_many
from lavra.data.store import TokenStore


class WindowSource:
    """Rows for training: window `k` of the run is a pure function of the seed and of `k`.

    Args:
        store: of tokens.
        context: targets of a window.
        seed: of the order.
    """

    def __init__(self, store: TokenStore, context: int, seed: int) -> None:
        self.store = store
        self.order = WindowOrder(store.manifest.tokens, context, seed)

    def rows(self, start: int, count: int) -> list[Window]:
        """Return `count` windows from number `start` on."""
        windows = cut_many(self.store, self.order.places(np.arange(start, start + count)))
        return [windows[row] for row in range(count)]

"""A model that reads rows of different lengths into one key-value cache, where rows are added, copied and removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lavra.generation.rows import Row, aligned_right
from lavra.models.protocols import CachedModel, device_of


class Reader:
    """Feeds rows to a model: the whole window of each row that the cache does not hold, and the last token of others.

    Args:
        model: Model with a key-value cache.
    """

    def __init__(self, model: CachedModel) -> None:
        self.device = device_of(model)
        self._model = model
        self._cache: Any = None
        self._rows = 0  # rows that the cache holds

    def next_features(self, rows: Sequence[Row], left: int) -> torch.Tensor:
        """Return the features from which the next token of each row is predicted, (rows, width).

        Args:
            rows: First the rows that the cache holds, in its order and each one token longer than at the last call,
                and then new rows.
            left: Largest number of tokens by which any of the rows may still grow.
        """
        slid = [row.slide(self._model.context) for row in rows]
        if any(slid) or (self._cache is not None and self._cache.length == self._cache.capacity):
            self.forget()
        if self._cache is None:
            return self._read(rows, left)[:, -1]
        known = self._rows
        last = torch.tensor([row.ids[-1:] for row in rows[:known]], device=self.device)
        features = self._model.step(last, self._cache)[:, -1]
        if len(rows) == known:
            return features
        cache = self._cache
        new = self._read(rows[known:], left)[:, -1]
        capacity = min(self._model.context, max(len(row.window) for row in rows) + left)
        self._cache, self._rows = cache.join(self._cache, capacity), len(rows)
        return torch.cat((features, new))

    def read(self, rows: Sequence[Row], left: int) -> torch.Tensor:
        """Read the whole windows into a new cache and return their features, (rows, longest, width).

        Shorter windows are padded on the left.

        Args:
            rows: Rows to read.
            left: Largest number of tokens by which any of the rows may still grow.
        """
        self.forget()
        for row in rows:
            row.slide(self._model.context)
        return self._read(rows, left)

    def append(self, ids: torch.Tensor) -> torch.Tensor:
        """Append tokens to the rows that were read, and return the features of the tokens, (rows, new, width).

        Args:
            ids: Ids of the new tokens, (rows, new).
        """
        return self._model.step(ids, self._cache)

    @property
    def full(self) -> bool:
        """Whether no further token fits into the cache."""
        return self._cache is None or self._cache.length == self._cache.capacity

    def select(self, rows: Sequence[int] | torch.Tensor) -> None:
        """Keep, copy or reorder rows of the cache.

        Args:
            rows: Old number of each new row, (new rows,).
        """
        if not len(rows):
            self.forget()
            return
        self._rows = len(rows)
        if self._cache is not None:
            self._cache.select(torch.as_tensor(rows, dtype=torch.long, device=self.device))

    def forget(self) -> None:
        """Drop the cache, so that all rows are read again at the next call."""
        self._cache, self._rows = None, 0

    def _read(self, rows: Sequence[Row], left: int) -> torch.Tensor:
        """Read whole windows into a new cache.

        Equal windows, as of several samples or beams of one prompt, are read once and then copied in the cache.
        """
        windows = [(row.source, tuple(row.window)) for row in rows]
        place = {window: number for number, window in enumerate(dict.fromkeys(windows))}
        ids = torch.tensor(aligned_right([window for _, window in place]), dtype=torch.long, device=self.device)
        capacity = min(self._model.context, ids.shape[1] + left)
        sources = [[source for source, _ in place]] if rows[0].source else []
        self._cache, self._rows = self._model.new_cache(len(place), capacity, *sources), len(rows)
        padded = len({len(window) for _, window in place}) > 1
        features = self._model.step(ids.clamp(min=0), self._cache, ids >= 0 if padded else None)
        if len(place) < len(windows):
            order = torch.tensor([place[window] for window in windows], device=self.device)
            self._cache.select(order)
            features = features[order]
        return features

"""The keys and values that a decoder keeps of the tokens it has read, for generation."""

from __future__ import annotations

import torch

from lavra.models.native.decode_step import Step
from lavra.models.native.layers import LayerCache


class KeyValueCache:
    """Keys and values of the tokens that a decoder has read, for generation.

    Args:
        layers: Keys and values of each block.
        rows: Number of sequences.
        capacity: Largest number of tokens of a sequence.
        device: Device that holds the cache.

    Attributes:
        length: Number of tokens stored so far, padding included; it is the same for all rows.
        capacity: Largest number of tokens that fit.
        steps: Function of each block for one token per row; None before anything was read.
    """

    def __init__(self, layers: list[LayerCache], rows: int, capacity: int, device: torch.device) -> None:
        self.layers = layers
        self.length = 0
        self.capacity = capacity
        self.steps: list[Step] | None = None
        self._ids = torch.zeros(rows, capacity, dtype=torch.long, device=device)
        self._index = torch.arange(capacity, device=device)
        self._positions = self._index.expand(rows, -1)  # written to (and then copied) only when there is padding
        self._attention_mask: torch.Tensor | None = (
            None  # (rows, capacity) bool: no padding; None while there is none at all
        )

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return self._positions.shape[0]

    @property
    def ids(self) -> torch.Tensor:
        """Ids of the tokens stored, (rows, stored)."""
        return self._ids[:, : self.length]

    def append(
        self, ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Record tokens as stored.

        Args:
            ids: Ids of the new tokens, (rows, new).
            attention_mask: False on padding, (rows, new) bool; None where there is no padding.

        Returns:
            The positions of all tokens, (rows, stored), and the mask of the keys that each new token attends to,
            (rows, 1, new, stored) bool, or None where that is simply causal. A padding token has position 0 and attends
            to itself, so that its output, which nobody uses, stays finite.

        Raises:
            ValueError: If the tokens do not fit.
        """
        new = ids.shape[1]
        before, after = self.length, self.length + new
        if after > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens; {after} were given")
        self._ids[:, before:after] = ids
        self.length = after
        if attention_mask is not None and self._attention_mask is None and not bool(attention_mask.all()):
            self._attention_mask = torch.ones(self.rows, self.capacity, dtype=torch.bool, device=self._index.device)
            self._positions = self._positions.clone()
        if self._attention_mask is None:
            return self._positions[:, :after], None
        self._attention_mask[:, before:after] = True if attention_mask is None else attention_mask
        stored = self._attention_mask[:, :after]
        known = self._attention_mask[:, :before].sum(1, keepdim=True)
        self._positions[:, before:after] = (known + stored[:, before:].cumsum(1) - 1).clamp(min=0)
        if new == 1:
            return self._positions[:, :after], stored[:, None, None].clone().index_fill_(3, self._index[before], True)
        query, key = self._index[before:after, None], self._index[None, :after]
        allowed = (stored[:, None, :] & (query >= key)) | (query == key)
        return self._positions[:, :after], allowed[:, None]

    def select(self, rows: torch.Tensor) -> None:
        """Keep, copy or reorder rows, as beams, samples and finished rows need it.

        Args:
            rows: Old number of each new row, (new rows,) int64.
        """
        self._positions = self._positions[rows]
        self._attention_mask = None if self._attention_mask is None else self._attention_mask[rows]
        self._ids = self._ids[rows]
        for layer in self.layers:
            layer.select(rows, self.length)

    def join(self, other: KeyValueCache, capacity: int) -> KeyValueCache:
        """Return a cache with the rows of this one, followed by those of the other.

        Rows are moved so that all end at the same place, and padding that no row needs is left out. Positions do not
        change.

        Args:
            other: Cache of the same model.
            capacity: Largest number of tokens of the new cache.

        Raises:
            ValueError: If the longest row does not fit.
        """
        length = max(self._longest(), other._longest())
        if capacity < length:
            raise ValueError(f"a cache of {capacity} tokens cannot hold rows of {length}")
        layers = [
            mine.join(self.length, theirs, other.length, length, capacity)
            for mine, theirs in zip(self.layers, other.layers, strict=True)
        ]
        joined = KeyValueCache(layers, self.rows + other.rows, capacity, self._index.device)
        joined.length, joined.steps = length, self.steps
        joined._positions = joined._positions.clone()
        joined._attention_mask = torch.ones_like(joined._positions, dtype=torch.bool)
        for first, cache in ((0, self), (self.rows, other)):
            rows, kept = slice(first, first + cache.rows), min(length, cache.length)
            attention_mask = (
                cache._positions.new_ones(cache._positions.shape).bool()
                if cache._attention_mask is None
                else cache._attention_mask
            )
            joined._attention_mask[rows, : length - kept] = False
            joined._attention_mask[rows, length - kept : length] = attention_mask[:, cache.length - kept : cache.length]
            joined._positions[rows, length - kept : length] = cache._positions[:, cache.length - kept : cache.length]
            joined._ids[rows, length - kept : length] = cache._ids[:, cache.length - kept : cache.length]
        return joined

    def _longest(self) -> int:
        """Return the number of tokens of the longest row, padding excluded."""
        return self.length if self._attention_mask is None else int(self._attention_mask[:, : self.length].sum(1).max())

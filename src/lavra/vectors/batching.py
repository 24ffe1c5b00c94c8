"""Divides texts into batches of like length, so that little or nothing of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

LEAST_TOKENS = 256
"""Tokens of a batch from which on it ends where the length of the texts changes. Matrix products of so many rows are
nearly as fast as larger ones on a processor, so that padding shorter texts into the batch would cost more than it
wins."""


def batches_by_length(lengths: Sequence[int], most: int, least: int = LEAST_TOKENS) -> Iterator[np.ndarray]:
    """Yield the numbers of the texts of each batch, the longest texts first; texts of one length stay in order.

    Most batches hold texts of one length, which need neither padding nor a mask. Only rare lengths share a batch.

    Args:
        lengths: Tokens of each text, all above 0.
        most: Most tokens of a batch, padding included; a longer text has a batch of its own.
        least: Tokens from which on a batch ends where the length changes.

    Yields:
        (texts of the batch,) int64 numbers.

    Examples:
        >>> [batch.tolist() for batch in batches_by_length([3, 5, 3, 5, 2], most=10, least=6)]
        [[1, 3], [0, 2], [4]]
        >>> [batch.tolist() for batch in batches_by_length([3, 5, 3, 5, 2], most=16, least=100)]
        [[1, 3, 0], [2, 4]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    for place in range(1, len(order) + 1):
        longest, rows = lengths[order[start]], place - start
        if place < len(order):
            full = (rows + 1) * longest > most
            changes = lengths[order[place]] != lengths[order[place - 1]] and rows * longest >= least
            if not full and not changes:
                continue
        yield order[start:place]
        start = place

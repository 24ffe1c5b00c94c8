"""Which row of a table belongs to a pair of tokens.

A token's embedding says nothing of the token before it, and a small model spends much of its first blocks on finding
out what the two mean together. A second table, with a row for each pair, gives it at the cost of reading a row: n-gram
embeddings (Huang et al., arXiv 2501.16975, §3), hashed (Svenstrup et al., arXiv 1709.03933), since most pairs of a
vocabulary never occur and no list of those that do has to be kept beside the weights.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

_BEFORE, _TOKEN = 50331653, 25165843
"""Primes, so that neighbouring ids are spread over the table."""
_FOLD = 15


def pair_rows(before: torch.Tensor, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the row, from 0 to `rows` - 1, of each token and the one before it.

    Args:
        before: (…) int64 ids of the tokens before.
        ids: (…) int64 ids of the tokens.
        rows: of the table.
    """
    mixed = (before * _BEFORE) ^ (ids * _TOKEN)
    return (mixed ^ (mixed >> _FOLD)) % rows


class PairEmbedding(nn.Module):
    """A table of vectors of pairs of tokens; all zero at first, so that a fresh model does not know of it.

    Args:
        pairs: rows.
        width: of a row.
    """

    def __init__(self, pairs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(pairs, width))

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None) -> torch.Tensor:
        """Return the (rows, length, width) vectors of each token with the one before; zero where there is none.

        Args:
            ids: (rows, length) token ids.
            positions: (rows or 1, length) of the tokens in their documents; at 0 there is no token before.
            last: (rows,) ids of the tokens before the first ones. None: nothing was read before.
        """
        before = ids.roll(1, 1)
        before[:, 0] = 0 if last is None else last
        rows = F.embedding(pair_rows(before, ids, self.weight.shape[0]), self.weight)
        known = positions > 0
        if last is None:
            known = known & (torch.arange(ids.shape[1], device=ids.device) > 0)
        return rows * known[..., None]

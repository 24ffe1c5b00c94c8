"""What the tokens before say by themselves: copying what followed the last time, and rows of a table for pairs of
tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

# What followed the last time: tokens that come again in a document tend to be followed by what followed them before.
#
# Attention learns to look that up by two blocks that have found each other (induction heads, Olsson et al. 2022, arXiv
# 2209.11895), and a small model on a short run does not get there. Looked up by comparing ids, it costs no product and
# need not be learned (n-gram heads, Akyürek et al. 2024, arXiv 2401.12973, §6): the head's row of the token that came
# next is added to what the blocks read, so that their sum says at once that it may come again.

_LONGEST = 3
"""Tokens in a row that are looked up: the last one alone, the last two and the last three."""

GAIN = 0.6
"""Of fresh weights. A gentle one learns less from the first hundred steps on, a larger one costs the first twenty."""

_Found = Iterator[tuple[torch.Tensor, torch.Tensor]]


def followers(ids: torch.Tensor, positions: torch.Tensor) -> _Found:
    """Yield, for each token alone, then for it and those before it, what followed when they last were in the document.

    Args:
        ids: (rows, stored) token ids.
        positions: (rows or 1, new) of the last `new` of them in their documents, which begin that far before.

    Yields:
        The (rows, new) ids that followed, and a (rows, new) bool of where there are any.
    """
    if positions.shape[1] == 1:
        return _followers_of_last(ids, positions)
    return _followers_of_all(ids, positions)


def _followers_of_all(ids: torch.Tensor, positions: torch.Tensor) -> _Found:
    """Sort what is compared: equal ones, of which the last before each is wanted, come to lie together."""
    stored, new = ids.shape[1], positions.shape[1]
    index = torch.arange(stored, device=ids.device)
    document = (index[stored - new :] - positions).clamp(min=0).expand(len(ids), -1)
    document = F.pad(document, (stored - new, 0), mode="replicate")
    kind = document
    for back in range(_LONGEST):
        # A kind is a document's first place, then a number for each of what was equal one token before.
        key = torch.where(index - back >= document, (kind << 32) | ids, -1 - index)
        key, order = key.sort(stable=True)
        same = key[:, 1:] == key[:, :-1]
        before = torch.full_like(order, -1).scatter_(1, order[:, 1:], torch.where(same, order[:, :-1], -1))
        yield (ids.gather(1, before + 1)[:, stored - new :], before[:, stored - new :] >= 0)
        kind = torch.empty_like(order).scatter_(1, order, F.pad((~same).cumsum(1), (1, 0)))
        kind = F.pad(kind, (1, 0))[:, :-1]


def _followers_of_last(ids: torch.Tensor, positions: torch.Tensor) -> _Found:
    """Compare the last token with all before it: what generation does for each."""
    stored = ids.shape[1]
    index = torch.arange(stored, device=ids.device)
    document = (stored - 1 - positions).clamp(min=0)
    found = index < stored - 1
    for back in range(_LONGEST):
        shifted = F.pad(ids, (back, 0))[:, :stored]
        found = found & (shifted == shifted[:, -1:]) & (index - back >= document)
        place = (found * (index + 1)).amax(1, keepdim=True)
        yield ids.gather(1, place.clamp(max=stored - 1)), place > 0


class Recall(nn.Module):
    """Adds to each token the head's rows of what followed it, and it with those before it, in the same document.

    Args:
        width: of a row.
        epsilon: added to a row's mean square, by whose root it is divided.

    Attributes:
        gains: (width,) factors on the rows, for one token, two and three.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.gains = nn.ParameterList(nn.Parameter(torch.full((width,), GAIN)) for _ in range(_LONGEST))

    def forward(self, x: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return (rows, new, width) `x` with what is recalled.

        Args:
            x: of the last `new` tokens.
            ids: (rows, stored) token ids, the new ones last.
            positions: (rows or 1, new) of the new tokens in their documents.
            rows: (vocabulary, width) of the head; they learn nothing from here.
        """
        for gain, (follower, found) in zip(self.gains, followers(ids, positions), strict=True):
            row = F.rms_norm(F.embedding(follower, rows.detach()), (x.shape[-1],), eps=self.epsilon)
            x = x + (row * found[..., None]).to(x.dtype) * gain
        return x


# Which row of a table belongs to a pair of tokens.
#
# A token's embedding says nothing of the token before it, and a small model spends much of its first blocks on finding
# out what the two mean together. A second table, with a row for each pair, gives it at the cost of reading a row:
# n-gram
# embeddings (Huang et al., arXiv 2501.16975, §3), hashed (Svenstrup et al., arXiv 1709.03933), since most pairs of a
# vocabulary never occur and no list of those that do has to be kept beside the weights.

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

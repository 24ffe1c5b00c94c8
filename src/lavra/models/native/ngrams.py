"""N-gram parts of a decoder: copying the tokens that followed earlier occurrences, and hashed bigram embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

# N-gram copy: an n-gram that occurs again in a document tends to be followed by the token that followed it before.
#
# Attention learns to look that up with two blocks that cooperate (induction heads, Olsson et al. 2022, arXiv
# 2209.11895), and a small model in a short run does not get there. Comparing ids instead costs no matrix product and
# need not be learned (n-gram heads, Akyürek et al. 2024, arXiv 2401.12973, section 6). The head's row of the token that
# followed is added to the input of the blocks, which therefore know at once that this token may follow again.

_LONGEST = 3
"""Longest n-gram in tokens that is looked up; the shorter ones are looked up too."""

GAIN = 0.6
"""Initial gain. With a smaller one the model learns less from about the hundredth step on, and a larger one makes the
first twenty steps worse."""

_Found = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""Iterator over the ids that followed and the masks of where there are any, for each length of n-gram."""


def followers(ids: torch.Tensor, positions: torch.Tensor) -> _Found:
    """Yield the tokens that followed the last earlier occurrence of each n-gram in its document.

    N-grams that end at each token are looked up: first the token alone, then it with the one before, and so on.

    Args:
        ids: Token ids, (rows, stored).
        positions: Positions of the last `new` tokens in their documents, (rows or 1, new). They also say where each
            document begins.

    Yields:
        The ids that followed, (rows, new), and whether there was an earlier occurrence, (rows, new) bool.

    Examples:
        In 5 6 5, the token 5 was followed by 6:

        >>> ids, found = next(followers(torch.tensor([[5, 6, 5]]), torch.tensor([[0, 1, 2]])))
        >>> ids[0, 2].item(), found[0].tolist()
        (6, [False, False, True])
    """
    if positions.shape[1] == 1:
        return _followers_of_last(ids, positions)
    return _followers_of_all(ids, positions)


def _followers_of_all(ids: torch.Tensor, positions: torch.Tensor) -> _Found:
    """Find the n-grams of all tokens at once by sorting, which puts equal n-grams next to each other.

    The sort is stable, so the n-gram before each one in the sorted order is its last earlier occurrence. Longer n-grams
    are built from shorter ones by prefix doubling: each n-gram gets a number, and the next key is that number of the
    n-gram one token before, together with the token.
    """
    stored, new = ids.shape[1], positions.shape[1]
    index = torch.arange(stored, device=ids.device)
    document = (index[stored - new :] - positions).clamp(min=0).expand(len(ids), -1)
    document = F.pad(document, (stored - new, 0), mode="replicate")
    kind = document
    for back in range(_LONGEST):
        # `kind` is the place where the document begins at first, and then the number of the n-gram one token before.
        key = torch.where(index - back >= document, (kind << 32) | ids, -1 - index)
        key, order = key.sort(stable=True)
        same = key[:, 1:] == key[:, :-1]
        before = torch.full_like(order, -1).scatter_(1, order[:, 1:], torch.where(same, order[:, :-1], -1))
        yield (ids.gather(1, before + 1)[:, stored - new :], before[:, stored - new :] >= 0)
        kind = torch.empty_like(order).scatter_(1, order, F.pad((~same).cumsum(1), (1, 0)))
        kind = F.pad(kind, (1, 0))[:, :-1]


def _followers_of_last(ids: torch.Tensor, positions: torch.Tensor) -> _Found:
    """Find the n-grams that end at the last token by comparing them with all earlier ones, as generation needs it."""
    stored = ids.shape[1]
    index = torch.arange(stored, device=ids.device)
    document = (stored - 1 - positions).clamp(min=0)
    found = index < stored - 1
    for back in range(_LONGEST):
        shifted = F.pad(ids, (back, 0))[:, :stored]
        found = found & (shifted == shifted[:, -1:]) & (index - back >= document)
        place = (found * (index + 1)).amax(1, keepdim=True)
        yield ids.gather(1, place.clamp(max=stored - 1)), place > 0


class NgramCopy(nn.Module):
    """Adds to each token the head's rows of the tokens that followed earlier occurrences of its n-grams.

    Args:
        width: Size of a row of the head.
        epsilon: Number added to the mean square of a row, by whose root the row is divided.

    Attributes:
        gains: Learned factors on the rows, (width,) for each length of n-gram.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.gains = nn.ParameterList(nn.Parameter(torch.full((width,), GAIN)) for _ in range(_LONGEST))

    def forward(self, x: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the input with the rows of the copied tokens added, (rows, new, width).

        Args:
            x: Embeddings of the last `new` tokens, (rows, new, width).
            ids: Token ids, the new ones last, (rows, stored).
            positions: Positions of the new tokens in their documents, (rows or 1, new).
            rows: Weight of the head, (vocabulary, width); it receives no gradient from here.
        """
        for gain, (follower, found) in zip(self.gains, followers(ids, positions), strict=True):
            row = F.rms_norm(F.embedding(follower, rows.detach()), (x.shape[-1],), eps=self.epsilon)
            x = x + (row * found[..., None]).to(x.dtype) * gain
        return x


# Hashed bigram embeddings.
#
# The embedding of a token says nothing about the token before it, and a small model spends much of its first blocks on
# finding out what the two mean together. A second table with a row for each bigram gives that at the cost of reading a
# row: n-gram embeddings (Huang et al. 2025, arXiv 2501.16975, section 3). The rows are found by hashing (Svenstrup et
# al. 2017, arXiv 1709.03933), because most bigrams of a vocabulary never occur and a list of those that do would have
# to be kept beside the weights.

_BEFORE = 50331653
"""Prime multipliers of the hash, which spread neighbouring ids over the table."""
_TOKEN = 25165843

_FOLD = 15
"""Bits by which the hash is shifted onto itself, so that its high bits also decide the row."""


def pair_rows(before: torch.Tensor, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the row of the table for each bigram, from 0 to `rows` - 1.

    Args:
        before: Ids of the first tokens, (…) int64.
        ids: Ids of the second tokens, (…) int64.
        rows: Number of rows of the table.

    Examples:
        >>> pair_rows(torch.tensor([1]), torch.tensor([2]), 1000).shape
        torch.Size([1])
    """
    mixed = (before * _BEFORE) ^ (ids * _TOKEN)
    return (mixed ^ (mixed >> _FOLD)) % rows


class BigramEmbedding(nn.Module):
    """A hashed table of bigram embeddings. It is zero at first, so that it does not change a fresh model.

    Args:
        rows: Number of rows of the table.
        width: Size of a row.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width))

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None) -> torch.Tensor:
        """Return the embedding of each bigram, (rows, length, width); zero at the first token of a document.

        Args:
            ids: Token ids, (rows, length).
            positions: Positions of the tokens in their documents, (rows or 1, length).
            last: Ids of the tokens before the first ones, (rows,); None where nothing was read before.
        """
        before = ids.roll(1, 1)
        before[:, 0] = 0 if last is None else last
        rows = F.embedding(pair_rows(before, ids, self.weight.shape[0]), self.weight)
        known = positions > 0
        if last is None:
            known = known & (torch.arange(ids.shape[1], device=ids.device) > 0)
        return rows * known[..., None]

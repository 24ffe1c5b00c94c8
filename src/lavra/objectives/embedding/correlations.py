"""Correlations of similarities with scores, which objectives of scored pairs measure beside their loss."""

from __future__ import annotations

import torch

FEWEST = 16
"""Fewest pairs whose correlation is told; that of four is 1 by chance."""


def correlations(similarities: torch.Tensor, scores: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return Spearman's and Pearson's correlation, () float64 each; 0 where either side does not vary.

    Nothing is returned for fewer than 16 pairs.

    Args:
        similarities: Similarities of the pairs, (pairs,).
        scores: Their scores, (pairs,).

    Examples:
        >>> found = correlations(torch.arange(20.0) ** 3, torch.arange(20.0))
        >>> round(float(found["spearman"]), 6)
        1.0
    """
    if len(scores) < FEWEST:
        return {}
    similarities, scores = similarities.detach().double(), scores.detach().double()
    return {"spearman": _pearson(_ranks(similarities), _ranks(scores)), "pearson": _pearson(similarities, scores)}


def _pearson(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    one, other = one - one.mean(), other - other.mean()
    below = (one.square().sum() * other.square().sum()).sqrt()
    return torch.where(below > 0, (one * other).sum() / below.clamp_min(1e-300), torch.zeros_like(below))


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the rank of each value; equal values have their mean rank."""
    _, group, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[group]

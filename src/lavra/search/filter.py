"""Which generated queries are worth keeping: the best by a relevance score, without repeats (Doc2Query--)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError


def best_share(scores: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    """Choose the best share of generated queries by their score (Gospodinov et al., "Doc2Query--", ECIR 2023).

    A share, not a threshold: thresholds do not carry over from one scoring model or language to another.

    Args:
        scores: (queries,) over the whole collection; higher is better.
        share: part to keep, above 0 and at most 1.

    Returns:
        (queries,) true for exactly `round(share * queries)` of them; of equal scores the earlier ones are kept.

    Raises:
        InputError: if a query has no score (NaN).
    """
    if share >= 1:
        return np.ones(len(scores), dtype=np.bool_)
    missing = int(np.isnan(scores).sum())
    if missing:
        raise InputError(
            f"{missing:,} of {len(scores):,} generated queries have no score, so the best cannot be chosen",
            "score the expansions first, or keep all of them",
        )
    wanted = round(share * len(scores))
    kept = np.zeros(len(scores), dtype=np.bool_)
    if wanted:
        threshold = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
        kept = scores > threshold
        ties = np.flatnonzero(scores == threshold)
        kept[ties[: wanted - int(kept.sum())]] = True
    return kept


def choose_queries(
    scores: NDArray[np.float32], repeats: NDArray[np.bool_], *, share: float = 1.0, drop_repeats: bool = False
) -> NDArray[np.bool_]:
    """Choose the generated queries to index.

    Args:
        scores: (queries,) relevance scores; looked at only for a share below 1.
        repeats: (queries,) whether each repeats another query of its document or copies its text.
        share: part of the remaining queries to keep, the best.
        drop_repeats: leave the repeats out first.
    """
    kept = ~repeats if drop_repeats else np.ones(len(scores), dtype=np.bool_)
    kept[kept] = best_share(scores[kept], share)
    return kept

"""How good vectors of texts are: correlation with scores of pairs, and how soon the right text is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.evaluation.intervals import Estimate, ratio_estimates
from lavra.evaluation.labels.metrics import scores
from lavra.evaluation.labels.predictions import Predictions

CORRELATIONS = ("spearman", "pearson")
"""Names of the metrics of scored pairs."""

RETRIEVAL = ("accuracy", "MRR")
"""Names of the metrics of pairs without a score: the share of first texts whose own second text is the nearest of all,
and the mean of one over its rank."""

_AT_ONCE = 512
"""First texts that are compared with all second texts at once."""


def correlation_estimates(similarities: ArrayLike, wanted: ArrayLike, *, seed: int = 0) -> dict[str, Estimate]:
    """Return Spearman's and Pearson's correlation of similarities with scores, with bootstrap intervals over pairs.

    Args:
        similarities: Similarity of each pair, (pairs,).
        wanted: Score of each pair, (pairs,).
        seed: Seed of the bootstrap.

    Examples:
        >>> found = correlation_estimates([0.1, 0.5, 0.4, 0.9, 0.95, 1.0], [0, 1, 2, 3, 4, 5])
        >>> round(found["spearman"].value, 3)
        0.943
    """
    given, right = (np.asarray(side, dtype=np.float64)[:, None] for side in (similarities, wanted))
    table = Predictions([str(number) for number in range(len(given))], right, given, ["score"], "values")
    found = scores(table, names=CORRELATIONS, seed=seed).metrics
    return {name: found[name] for name in CORRELATIONS}


def ranks_among(first: Any, second: Any, right: Sequence[frozenset[int]]) -> NDArray[np.int64]:
    """Return the rank, from 1 on, of the best right text for each first text among all second texts.

    Of texts that are as near as the right one, half are counted as nearer, so that equal vectors are no success.

    Args:
        first: Vectors of the first texts, (texts, dimensions), as an array or a sparse matrix.
        second: Vectors of the texts that are searched, (others, dimensions).
        right: Numbers of the right ones for each first text, at least one each.

    Examples:
        >>> ranks_among(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), [frozenset({0}), frozenset({0})])
        array([1, 2])
    """
    found = np.empty(first.shape[0], dtype=np.int64)
    for start in range(0, first.shape[0], _AT_ONCE):
        nearness = first[start : start + _AT_ONCE] @ second.T
        nearness = nearness.toarray() if hasattr(nearness, "toarray") else nearness
        for row, similarities in enumerate(nearness, start=start):
            own = list(right[row])
            best = similarities[own].max()
            wrong = np.ones(len(similarities), dtype=bool)
            wrong[own] = False
            nearer, equal = (similarities[wrong] > best).sum(), (similarities[wrong] == best).sum()
            found[row] = 1 + nearer + -(-equal // 2)
    return found


def retrieval_estimates(ranks: ArrayLike, *, seed: int = 0) -> dict[str, Estimate]:
    """Return accuracy and mean reciprocal rank, with bootstrap intervals over the first texts.

    Args:
        ranks: Rank of the right text for each first text, (texts,).
        seed: Seed of the bootstrap.

    Examples:
        >>> retrieval_estimates([1, 2, 1, 4, 1])["MRR"].value
        0.75
    """
    ranks = np.asarray(ranks)
    ones = np.ones(len(ranks))
    columns = {"accuracy": (ranks == 1).astype(float), "MRR": 1.0 / ranks}
    return {name: ratio_estimates(values, {name: ones}, seed=seed)[name] for name, values in columns.items()}


def estimates_table(columns: Mapping[str, Mapping[str, Estimate]], rows: int, what: str) -> str:
    """Return the metrics of a model and of others on the same rows as lines of plain text.

    Args:
        columns: The metrics by the name of what was measured; the first is the model.
        rows: Number of rows that were measured.
        what: What the rows are, in the plural.

    Examples:
        >>> columns = {"model": {"MRR": Estimate(0.5, 0.4, 0.6)}, "tf-idf": {"MRR": Estimate(0.25)}}
        >>> print(estimates_table(columns, 8, "pairs"))
        measured on 8 pairs
        <BLANKLINE>
               model    95 % interval      tf-idf
        MRR    0.500   0.400 to 0.600       0.250
    """
    first, *others = columns
    width = max(len(name) for name in columns[first])
    heading = " ".join([f"{'':<{width}}", f"{first:>8}", f"{'95 % interval':>16}", *(f"{name:>11}" for name in others)])
    lines = [f"measured on {rows:,} {what}", "", heading]
    for name, estimate in columns[first].items():
        known = estimate.low is not None and estimate.high is not None
        interval = f"{estimate.low:.3f} to {estimate.high:.3f}" if known else ""
        cells = [f"{columns[other][name].value:>11.3f}" for other in others]
        lines.append(" ".join([f"{name:<{width}}", f"{estimate.value:>8.3f}", f"{interval:>16}", *cells]).rstrip())
    return "\n".join(lines)


def to_figures(columns: Mapping[str, Mapping[str, Estimate]], rows: int) -> dict[str, Any]:
    """Return metrics as the figures of a result: those of the first column, and the others as baselines.

    Args:
        columns: The metrics by the name of what was measured; the first is the model.
        rows: Number of rows that were measured.
    """
    first, *others = columns

    def plain(name: str) -> dict[str, Any]:
        return {metric: estimate.to_json() for metric, estimate in columns[name].items()} | {"rows": rows}

    return {**plain(first), "baseline_scores": {name: plain(name) for name in others}}

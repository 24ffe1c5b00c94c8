"""Clustering of vectors, measured against labels: k-means, and how far clusters and labels tell the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.intervals import Estimate, Resamples, interval

STARTS = 10
"""Starts of k-means, of which the one with the least distances is kept."""


@dataclass(frozen=True)
class Clustering:
    """Clusters of texts beside their labels.

    Attributes:
        clusters: Number of the cluster of each text, (texts,).
        v_measure: Harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007), which equals the
            normalised mutual information with the arithmetic mean of both entropies.
        homogeneity: How far a cluster holds texts of one label alone, from 0 to 1.
        completeness: How far the texts of a label are in one cluster, from 0 to 1.
        adjusted_rand: Adjusted Rand index: agreement over pairs of texts, 0 by chance and 1 at best.
    """

    clusters: NDArray[np.int64]
    v_measure: Estimate
    homogeneity: Estimate
    completeness: Estimate
    adjusted_rand: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return the measures as plain values."""
        names = ("v_measure", "homogeneity", "completeness", "adjusted_rand")
        return {name: getattr(self, name).to_json() for name in names}


def cluster_vectors(
    vectors: NDArray[np.float32],
    labels: Sequence[Any],
    *,
    clusters: int | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> Clustering:
    """Divide vectors into clusters by k-means, and measure the clusters against labels.

    The intervals are those of other texts of the same kind with the same clusters: the texts are resampled, and the
    clustering is not made again.

    Args:
        vectors: Vectors, (texts, dimensions), of length 1 where they are compared by the cosine.
        labels: Label of each text.
        clusters: Number of clusters; as many as there are labels if None.
        seed: Seed of k-means and of the bootstrap.
        draws: Number of bootstrap resamples.

    Raises:
        InputError: If there are fewer texts than clusters, or not one label for each text.

    Examples:
        >>> vectors = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4, np.float32)
        >>> cluster_vectors(vectors, list("aaaabbbb")).v_measure.value
        1.0
    """
    from sklearn.cluster import KMeans

    if len(labels) != len(vectors):
        raise InputError(f"{len(vectors):,} vectors have {len(labels):,} labels", "give one label for each text")
    names, classes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    count = clusters or len(names)
    if not 1 <= count <= len(vectors):
        raise InputError(f"{len(vectors):,} texts cannot be {count:,} clusters", "give more texts, or fewer clusters")
    fitted = KMeans(count, n_init=STARTS, random_state=seed).fit(vectors)  # pyright: ignore[reportArgumentType]
    found = np.asarray(fitted.labels_, np.int64)
    return Clustering(found, **agreement(found, classes, seed=seed, draws=draws))


def agreement(
    clusters: NDArray[np.int64], classes: NDArray[np.int64], *, seed: int = 0, draws: int = 1000
) -> dict[str, Estimate]:
    """Return the measures of clusters against classes, with their 95 % bootstrap intervals over texts.

    Args:
        clusters: Number of the cluster of each text, (texts,).
        classes: Number of the class of each text, (texts,).
        seed: Seed of the bootstrap.
        draws: Number of bootstrap resamples.
    """
    shape = (int(clusters.max()) + 1, int(classes.max()) + 1)
    pairs = clusters * shape[1] + classes
    values = _measures(np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape))
    resamples = Resamples(len(clusters), draws=draws, seed=seed)
    units, rows = resamples.unit_of(), []
    for _, times in resamples.blocks():
        for drawn in times:
            table = np.bincount(pairs, weights=drawn[units], minlength=shape[0] * shape[1])
            rows.append(list(_measures(table.reshape(shape)).values()))
    # Texts that are drawn twice agree with themselves, so that resamples agree more than the texts do. The spread is
    # what is wanted of them, and their middle is put back to the value.
    found = np.array(rows)
    found += np.array(list(values.values())) - found.mean(0)
    return {
        name: Estimate(value, *interval(found[:, column], len(clusters)))
        for column, (name, value) in enumerate(values.items())
    }


def _measures(table: NDArray[Any]) -> dict[str, float]:
    """Return the measures of a (clusters, classes) table of counts."""
    of_cluster, of_class = table.sum(1), table.sum(0)
    clusters, classes, both = (_entropy(counts) for counts in (of_cluster, of_class, table.ravel()))
    shared = clusters + classes - both
    homogeneity = shared / classes if classes > 0 else 1.0
    completeness = shared / clusters if clusters > 0 else 1.0
    total = homogeneity + completeness
    return {
        "v_measure": 2 * homogeneity * completeness / total if total > 0 else 0.0,
        "homogeneity": homogeneity,
        "completeness": completeness,
        "adjusted_rand": _adjusted_rand(table, of_cluster, of_class),
    }


def _entropy(counts: NDArray[Any]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _adjusted_rand(table: NDArray[Any], of_cluster: NDArray[Any], of_class: NDArray[Any]) -> float:
    """Return the adjusted Rand index (Hubert and Arabie 1985)."""

    def pairs(counts: NDArray[Any]) -> float:
        return float((counts * (counts - 1.0)).sum() / 2)

    one, other, every = pairs(of_cluster), pairs(of_class), pairs(np.array([table.sum()]))
    expected, most = one * other / every if every else 0.0, (one + other) / 2
    return (pairs(table) - expected) / (most - expected) if most != expected else 1.0

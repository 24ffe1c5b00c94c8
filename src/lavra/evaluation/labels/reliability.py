"""Whether probabilities mean what they say: how often predictions of each confidence are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.by_class import share
from lavra.evaluation.labels.metric_formulas import BINS, bin_of, confidences
from lavra.evaluation.labels.predictions import Predictions


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of about one confidence.

    Attributes:
        confidence: Mean of the probabilities.
        right: Share of them that are right, with its interval.
        count: Number of predictions.
    """

    confidence: float
    right: Estimate
    count: int


def reliability(table: Predictions) -> list[ReliabilityBin]:
    """Return the bins of the calibration error that hold predictions, from the least confident to the most.

    Args:
        table: Predictions of classes, of which the likeliest counts, or of labels, of which each one counts. Rows of
            which nothing is known are left out.

    Examples:
        >>> table = Predictions("ab", [[1, 0], [0, 1]], [[0.9, 0.1], [0.9, 0.1]], ["no", "yes"])
        >>> [(round(one.confidence, 2), float(one.right.value), one.count) for one in reliability(table)]
        [(0.9, 0.5, 2)]
    """
    sure, right = (side.ravel() for side in confidences(table.select(table.known)))
    bins = bin_of(sure)
    counts, sums, hits = (np.bincount(bins, weights, BINS) for weights in (None, sure, right))
    return [
        ReliabilityBin(float(sums[one] / counts[one]), share(hits[one], counts[one]), int(counts[one]))
        for one in np.flatnonzero(counts).tolist()
    ]

"""Two models on the same rows: the difference in a metric, its interval, and the paired randomisation test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.evaluation.intervals import Estimate, interval
from lavra.evaluation.labels.joining import order_like
from lavra.evaluation.labels.metric_formulas import row_losses
from lavra.evaluation.labels.metrics import SMALLER_IS_BETTER, estimate, known_statistics
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.significance import fair_coins

_OF_PROBABILITIES = ("log_loss", "brier", "calibration_error")


@dataclass(frozen=True)
class PairedComparison:
    """Two models on one metric.

    Attributes:
        metric: Name of the metric.
        first: Metric of the first model.
        second: Metric of the second model.
        difference: Second minus first, with the 95 % interval of a bootstrap that draws the same rows of both.
        p_randomisation: Two-sided p-value of the hypothesis that the two models are exchangeable on each row.
        wins: Number of rows on which the second model is better.
        losses: Number of rows on which it is worse.
        rows: Number of rows that were compared.
    """

    metric: str
    first: Estimate
    second: Estimate
    difference: Estimate
    p_randomisation: float
    wins: int
    losses: int
    rows: int

    @property
    def gain(self) -> float:
        """By how much the second model is better; negative where it is worse, whichever way the metric points."""
        return -self.difference.value if self.metric in SMALLER_IS_BETTER else self.difference.value

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        estimates = {name: getattr(self, name).to_json() for name in ("first", "second", "difference")}
        counts = {name: getattr(self, name) for name in ("p_randomisation", "wins", "losses", "rows")}
        return {"metric": self.metric, **estimates, **counts}


def compare(
    first: Predictions,
    second: Predictions,
    metric: str,
    *,
    first_decisions: NDArray[Any] | None = None,
    second_decisions: NDArray[Any] | None = None,
    samples: int = 10_000,
    draws: int = 2000,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models on the rows that both predicted and whose target is known.

    Under the null hypothesis the results of a row may belong to either model. The test exchanges them at random and
    counts how often the metric then differs by as much as observed; it is exact for every metric, also for those that
    are no means over rows. The seeds of one row are exchanged together.

    Args:
        first: Predictions of the first model, the one that is to be beaten.
        second: Predictions of the second model for the same rows, in any order.
        metric: Name of the metric, see `metrics.METRICS`.
        first_decisions: Decisions of the first model, see `metrics.scores`.
        second_decisions: Decisions of the second model, in the order of its table.
        samples: Number of random exchanges; `spearman` makes at most a tenth of them, because it must rank anew.
        draws: Number of bootstrap resamples.
        seed: Seed of both.

    Raises:
        InputError: If the rows, targets or classes differ, or the metric is not one of theirs.

    Examples:
        >>> from lavra.evaluation.labels.predictions import one_hot
        >>> truth = one_hot(np.arange(40) % 2, 2)
        >>> coin = Predictions(range(40), truth, np.full((40, 2), 0.5), ["no", "yes"])
        >>> found = compare(coin, coin.with_probabilities(truth), "accuracy")
        >>> found.difference.value, found.wins, found.losses, found.p_randomisation < 0.001
        (0.5, 20, 0, True)
    """
    order = order_like(first, second, ("the first model", "the second model"))
    again = second.select(order)
    decided = [
        first.decisions() if first_decisions is None else np.asarray(first_decisions),
        again.decisions() if second_decisions is None else np.asarray(second_decisions)[order],
    ]
    one, two = (known_statistics(table, d, (metric,))[0] for table, d in zip((first, again), decided, strict=True))
    before, after = one.values()[metric], two.values()[metric]
    drawn = [side.resampled(draws=draws, seed=seed)[metric] for side in (one, two)]
    change = drawn[1] - drawn[0]
    ends = interval(change[np.isfinite(change)], one.units)
    samples = max(1, samples // 10) if metric == "spearman" else samples
    exchanged = two.exchanged(one, fair_coins(one.units, samples=samples, seed=seed))[metric]
    margin = 1e-9 * (abs(before) + abs(after))  # differences that are equal on paper differ by rounding
    extreme = int((np.abs(exchanged) >= abs(after - before) - margin).sum())
    better = _row_quality(again, decided[1], metric) - _row_quality(first, decided[0], metric)
    return PairedComparison(
        metric,
        estimate(metric, before, drawn[0], one.units),
        estimate(metric, after, drawn[1], one.units),
        Estimate(after - before, *ends),
        (1 + extreme) / (1 + len(exchanged)),
        int((better > 1e-12).sum()),
        int((better < -1e-12).sum()),
        len(better),
    )


def _row_quality(table: Predictions, decisions: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """Return how good each row with a known target is, by what the metric looks at."""
    known = table.known
    table, decisions = table.select(known), decisions[known]
    if metric in _OF_PROBABILITIES:
        return -row_losses(table.targets, table.probabilities, labels=table.kind == "labels")
    truth = table.truth()
    if table.kind == "classes":
        return (truth == decisions).astype(np.float64)
    if table.kind == "labels":
        both, either = (truth & decisions).sum(axis=1), truth.sum(axis=1) + decisions.sum(axis=1)
        return np.where(either > 0, 2 * both / np.maximum(1, either), 1.0)
    return -np.abs(truth - decisions).reshape(len(truth), -1).mean(axis=1)

"""What each metric counts: its contributions row by row, and the formula of their sums.

Conventions, where implementations differ:

- A class that is neither true nor predicted has no part in a mean over classes (scikit-learn: `zero_division=nan`).
- Soft targets count by their likeliest class in decisions, and as they are in the log-loss, the Brier score and the
  calibration error.
- The Brier score of two classes is halved, as in scikit-learn, so that it is the squared error of one probability.
- The calibration error has 15 bins of equal width, each open at its lower end, over the probability of the likeliest
  class; of labels, over that of each label (Guo et al. 2017, "On Calibration of Modern Neural Networks").
- A row without labels for which none is predicted has an F1 of 1 in `samples_f1`.
- A correlation or kappa with something constant is 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.statistics import Formula, MeanOfColumns, RankCorrelation, Statistic, Sums, correlation

BINS = 15
"""Number of bins of the calibration error."""

_LEAST = float(np.finfo(np.float64).eps)  # probability that a logarithm sees at least, as in scikit-learn


def statistics_of(table: Predictions, decisions: NDArray, names: tuple[str, ...]) -> list[Statistic]:
    """Return the statistics that give the named metrics; those without any of the names are left out.

    Args:
        table: Predictions, all of whose targets are known.
        decisions: What is decided for each row.
        names: Names of the metrics.
    """
    rows = _Rows(table, decisions, *table.units)
    makers = {
        "classes": (_class_counts, _probabilities, _calibration),
        "labels": (_label_counts, _label_sets, _probabilities, _calibration),
        "values": (_errors, _moments, _ranks),
        "ordinal": (_levels, _probabilities),
    }
    found = (maker(rows, frozenset(names)) for maker in makers[table.kind])
    return [statistic for statistic in found if statistic is not None]


class _Rows:
    """The rows of a table with their decisions and units, and what makes statistics of them."""

    def __init__(self, table: Predictions, decisions: NDArray, unit: NDArray[np.int64], units: int) -> None:
        self.table, self.decisions, self.unit, self.units = table, decisions, unit, units
        self.weights, self.targets, self.probabilities = table.weights, table.targets, table.probabilities
        self.size = len(table.classes)

    def counted(
        self, columns: int, entries: list[tuple[NDArray, ...]], formulas: Mapping[str, Formula], wanted: frozenset[str]
    ) -> Sums | None:
        """Return sums from lists of (number of the row, column, amount); None where no metric of them is wanted."""
        chosen = {name: formula for name, formula in formulas.items() if name in wanted}
        if not chosen:
            return None
        rows, places, amounts = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        weighted = amounts * self.weights[rows]
        there = weighted != 0
        return Sums(self.units, columns, self.unit[rows[there]], places[there], weighted[there], chosen)

    def summed(self, amounts: list[NDArray], formulas: Mapping[str, Formula], wanted: frozenset[str]) -> Sums | None:
        """Return sums of some amounts of each row, and of the weights in the last column."""
        every = np.arange(len(self.unit))
        amounts = [*amounts, np.ones(len(every))]
        entries = [(every, np.full(len(every), place), amount) for place, amount in enumerate(amounts)]
        return self.counted(len(amounts), entries, formulas, wanted)


def _mean(place: int) -> Formula:
    """Return the formula of the weighted mean of a column; the last column holds the weights."""
    return lambda sums: _ratio(sums[..., place], sums[..., -1])


def _ratio(above: NDArray, below: NDArray) -> NDArray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


def _mean_where(values: NDArray, there: NDArray) -> NDArray:
    """Return the mean over the last axis of the values that are there."""
    return _ratio((values * there).sum(axis=-1), there.sum(axis=-1))


# Classes: sums of how often each is true and predicted, true, and predicted.


def _class_counts(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    size, truth, decided = rows.size, rows.table.truth(), rows.decisions
    every, ones = np.arange(len(truth)), np.ones(len(truth))
    entries = [(every, truth, 1.0 * (truth == decided)), (every, size + truth, ones), (every, 2 * size + decided, ones)]

    def parts(sums: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        return sums[..., :size], sums[..., size : 2 * size], sums[..., 2 * size :]

    def accuracy(sums: NDArray) -> NDArray:
        hits, true, _ = parts(sums)
        return _ratio(hits.sum(axis=-1), true.sum(axis=-1))

    def balanced(sums: NDArray) -> NDArray:
        hits, true, _ = parts(sums)
        return _mean_where(_ratio(hits, true), true > 0)

    formulas = {
        "accuracy": accuracy,
        "micro_f1": accuracy,  # with one class for each row, every miss is also a false alarm
        "balanced_accuracy": balanced,
        "macro_f1": lambda sums: _macro_f1(*parts(sums)),
        "matthews_correlation": lambda sums: _matthews(*parts(sums)),
    }
    return rows.counted(3 * size, entries, formulas, wanted)


def _macro_f1(hits: NDArray, true: NDArray, predicted: NDArray) -> NDArray:
    return _mean_where(_ratio(2 * hits, true + predicted), true + predicted > 0)


def _matthews(hits: NDArray, true: NDArray, predicted: NDArray) -> NDArray:
    """Return the R_K of Gorodkin 2004, which is the correlation of the confusion matrix."""
    total = true.sum(axis=-1)
    above = hits.sum(axis=-1) * total - (true * predicted).sum(axis=-1)
    spreads = [total**2 - (side**2).sum(axis=-1) for side in (true, predicted)]
    # Counts are whole numbers unless rows have weights; then a spread of zero is zero but for its rounding.
    spreads = [np.where(spread > 1e-12 * total**2, spread, 0.0) for spread in spreads]
    return correlation(above, *spreads)


# Labels: the same sums for each label, and the agreement of each row's set of labels.


def _label_counts(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    size = rows.size
    truth, decided = rows.table.truth(), np.asarray(rows.decisions, dtype=bool)
    entries = []
    for number, side in enumerate((truth & decided, truth, decided)):
        row, label = np.nonzero(side)
        entries.append((row, number * size + label, np.ones(len(row))))

    def parts(sums: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        return sums[..., :size], sums[..., size : 2 * size], sums[..., 2 * size :]

    def micro(sums: NDArray) -> NDArray:
        hits, true, predicted = (part.sum(axis=-1) for part in parts(sums))
        return _ratio(2 * hits, true + predicted)

    formulas = {"micro_f1": micro, "macro_f1": lambda sums: _macro_f1(*parts(sums))}
    return rows.counted(3 * size, entries, formulas, wanted)


def _label_sets(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    truth, decided = rows.table.truth(), np.asarray(rows.decisions, dtype=bool)
    both, either = (truth & decided).sum(axis=1), truth.sum(axis=1) + decided.sum(axis=1)
    f1 = np.where(either > 0, 2 * both / np.maximum(1, either), 1.0)
    equal = (truth == decided).all(axis=1).astype(np.float64)
    return rows.summed([f1, equal], {"samples_f1": _mean(0), "subset_accuracy": _mean(1)}, wanted)


# Probabilities of classes and of labels.


def _probabilities(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    targets, probabilities = rows.targets, rows.probabilities
    squares = (probabilities - targets) ** 2
    if rows.table.kind == "labels":
        loss, brier = row_losses(targets, probabilities, labels=True), squares.mean(axis=1)
    else:
        loss = row_losses(targets, probabilities)
        brier = squares.sum(axis=1) / (2 if rows.size == 2 else 1)
    return rows.summed([loss, brier], {"log_loss": _mean(0), "brier": _mean(1)}, wanted)


def row_losses(
    targets: NDArray[np.float64], probabilities: NDArray[np.float64], *, labels: bool = False
) -> NDArray[np.float64]:
    """Return the cross-entropy of each row in nats, (n,); of labels, the mean over the labels.

    Args:
        targets: Probabilities of the classes or labels, (n, K).
        probabilities: Predicted probabilities, (n, K).
        labels: Whether the columns may hold together, each being one of two classes.
    """
    logs = np.log(np.clip(probabilities, _LEAST, 1.0))
    if not labels:
        return -(targets * logs).sum(axis=1)
    return -(targets * logs + (1 - targets) * np.log(np.clip(1 - probabilities, _LEAST, 1.0))).mean(axis=1)


def bin_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of the calibration error of each confidence, 0 to `BINS - 1`."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence, side="left")


def confidences(table: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the calibration error compares: how sure each prediction is, and how right it turned out to be.

    Args:
        table: Predictions of classes or labels, all of whose targets are known.

    Returns:
        Two (n, m) arrays: m is 1 for classes (the likeliest one) and K for labels (each one).
    """
    if table.kind == "labels":
        return table.probabilities, table.targets
    best = table.probabilities.argmax(axis=1)[:, None]
    return np.take_along_axis(table.probabilities, best, 1), np.take_along_axis(table.targets, best, 1)


def _calibration(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    sure, right = confidences(rows.table)
    bins = bin_of(sure)

    def formula(sums: NDArray) -> NDArray:
        gaps = np.abs(sums[..., :BINS]).sum(axis=-1)
        return _ratio(gaps, sums[..., BINS:].sum(axis=-1))

    every = np.repeat(np.arange(len(sure)), sure.shape[1])
    gaps, ones = (right - sure).ravel(), np.ones(sure.size)
    entries = [(every, bins.ravel(), gaps), (every, BINS + bins.ravel(), ones)]
    return rows.counted(2 * BINS, entries, {"calibration_error": formula}, wanted)


# Values: errors and correlations, the mean over the columns where there are several.


def _errors(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    errors = rows.decisions - rows.targets
    amounts = [(errors**2).mean(axis=1), np.abs(errors).mean(axis=1)]
    return rows.summed(amounts, {"mean_squared_error": _mean(0), "mean_absolute_error": _mean(1)}, wanted)


def _moments(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    # Centred first, so that nothing is lost where the values are large beside their spread.
    x, y = (side - side.mean(axis=0) for side in (rows.targets, rows.decisions))
    size = rows.size
    amounts = [product[:, column] for product in (x, y, x * y, x * x, y * y) for column in range(size)]

    def pearson(sums: NDArray) -> NDArray:
        total = sums[..., -1:]
        x, y, xy, xx, yy = (sums[..., part * size : (part + 1) * size] for part in range(5))
        spreads = [squares - side**2 / total for squares, side in ((xx, x), (yy, y))]
        # The difference of two equal numbers is zero but for its rounding.
        spreads = [
            np.where(spread > 1e-12 * squares, spread, 0.0) for spread, squares in zip(spreads, (xx, yy), strict=True)
        ]
        return correlation(xy - x * y / total, *spreads).mean(axis=-1)

    return rows.summed(amounts, {"pearson": pearson}, wanted)


def _ranks(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    if "spearman" not in wanted:
        return None
    columns = [
        RankCorrelation(rows.units, rows.unit, rows.targets[:, one], rows.decisions[:, one], rows.weights)
        for one in range(rows.size)
    ]
    return columns[0] if len(columns) == 1 else MeanOfColumns(tuple(columns))


# Classes in an order: distances between their numbers.


def _levels(rows: _Rows, wanted: frozenset[str]) -> Statistic | None:
    truth, decided = (np.asarray(side, dtype=np.float64) for side in (rows.table.truth(), rows.decisions))
    distance = np.abs(truth - decided)

    def kappa(sums: NDArray) -> NDArray:
        squared, t, d, tt, dd, total = (sums[..., place] for place in (2, 3, 4, 5, 6, -1))
        expected = tt + dd - 2 * _ratio(t * d, total)  # of rows whose truth and decision are drawn independently
        there = expected > 1e-12 * (tt + dd)
        return np.where(there, 1 - squared / np.where(there, expected, 1.0), 0.0)

    amounts = [distance, (distance == 0).astype(np.float64), distance**2, truth, decided, truth**2, decided**2]
    formulas = {"mean_absolute_error": _mean(0), "accuracy": _mean(1), "quadratic_kappa": kappa}
    return rows.summed(amounts, formulas, wanted)

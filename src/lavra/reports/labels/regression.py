"""Section of predicted numbers: predicted against actual, and what is left over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lavra.reports.labels.record import LabelRecord
from lavra.reports.labels.squares import Point, square_plot
from lavra.reports.page import Section

_MOST_POINTS = 1500  # that are drawn; a page of more would be slow


def regression_section(record: LabelRecord) -> Section:
    """Return the section of predicted numbers; it is empty for classes and labels."""
    table = record.table
    known = table.select(table.known)
    if table.kind != "values" or not len(known):
        return Section("Predicted against actual numbers")
    pictures = []
    for column, name in enumerate(table.classes):
        actual, predicted = known.targets[:, column], known.probabilities[:, column]
        pictures += _plots(name, actual, predicted)
    left = np.abs(known.probabilities - known.targets)
    drawn = f", of which {_MOST_POINTS:,} are drawn, evenly chosen" if len(known) > _MOST_POINTS else ""
    return Section(
        "Predicted against actual numbers",
        f"Half of the {len(known):,} predictions{drawn} are off by at most {np.median(left):.4g}, and nine tenths by "
        f"at most {np.quantile(left, 0.9):.4g}.",
        pictures=pictures,
        note="On the dashed lines a prediction is right. A cloud that is flatter than its line is a model that keeps "
        "to the mean; residuals that rise or fall with the prediction are an error that could be learned.",
    )


def _plots(name: str, actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> list[str]:
    chosen = np.unique(np.linspace(0, len(actual) - 1, min(len(actual), _MOST_POINTS)).astype(int))
    x, y = actual[chosen], predicted[chosen]
    low, high = ends([*x, *y])
    below, above = ends([*(y - x), 0.0])
    from_, to = ends(list(y))
    return [
        square_plot(
            f"{name}: predicted against actual",
            [Point(float(one), float(other)) for one, other in zip(x, y, strict=True)],
            ("actual", low, high),
            ("predicted", low, high),
            lines=[(low, low, high, high)],
            faint=True,
        ),
        square_plot(
            f"{name}: residuals",
            [Point(float(other), float(other - one)) for one, other in zip(x, y, strict=True)],
            ("predicted", from_, to),
            ("predicted - actual", below, above),
            lines=[(from_, 0.0, to, 0.0)],
            faint=True,
        ),
    ]


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis that holds values, with a little room; never of width 0.

    Args:
        values: The values, at least one.

    Examples:
        >>> ends([2.0, 2.0])
        (1.5, 2.5)
    """
    low, high = float(min(values)), float(max(values))
    room = (high - low) * 0.04 or max(0.5, abs(high) * 1e-6)
    return low - room, high + room

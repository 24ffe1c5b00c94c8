"""Section of the reliability: whether predictions of a confidence are right as often as it says."""

from __future__ import annotations

import math

from lavra.core.units import counted
from lavra.evaluation.labels.reliability import ReliabilityBin, reliability
from lavra.reports.labels.record import LabelRecord
from lavra.reports.labels.squares import Point, square_plot
from lavra.reports.page import Section

_LARGEST = 7.0  # radius of the point of all predictions, in pixels


def reliability_section(record: LabelRecord) -> Section:
    """Return the section of the reliability diagram; it is empty for predicted numbers and for ranks."""
    table = record.table
    if table.kind not in ("classes", "labels") or not table.known.any():
        return Section("Reliability")
    bins = reliability(table)
    total = sum(one.count for one in bins)
    what = "of the likeliest class" if table.kind == "classes" else "of each label"
    said = sum(one.confidence * one.count for one in bins) / total
    right = sum(one.right.value * one.count for one in bins) / total
    told = "more sure than right" if said > right else "less sure than right"
    picture = square_plot(
        "Reliability",
        [_point(one, total) for one in bins],
        ("probability that the model gives", 0.0, 1.0),
        ("share that is right", 0.0, 1.0),
        lines=[(0.0, 0.0, 1.0, 1.0)],
    )
    return Section(
        "Reliability",
        f"The probabilities {what} are {said:.3f} on average, and {right:.3f} of them are right: the model is {told}."
        if f"{said:.3f}" != f"{right:.3f}"
        else f"The probabilities {what} are {said:.3f} on average, and as many of them are right.",
        pictures=[picture],
        note="Each point is a fifteenth of the scale; its area is the number of predictions, its bar a 95 % interval. "
        "On the dashed line, probabilities mean what they say; below it, the model is too sure.",
    )


def _point(one: ReliabilityBin, total: int) -> Point:
    size = max(1.5, _LARGEST * math.sqrt(one.count / total))
    told = f"{counted(one.count, 'prediction')}: {one.confidence:.3f} said, {one.right.value:.3f} right"
    return Point(one.confidence, one.right.value, one.right.low, one.right.high, size, told)

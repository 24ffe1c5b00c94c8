"""Section of the learning curve: what more labels would bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavra.evaluation.labels.metrics import SMALLER_IS_BETTER
from lavra.reports.formatting import plain, shown, title
from lavra.reports.page import Section, Table
from lavra.reports.plots import Axis, Series, line_plot

_STEPS = 40  # points of the drawn curve
_BEYOND = 2.0  # how far it is followed, in numbers of labels


def learning_curve_section(result: Mapping[str, Any]) -> Section:
    """Return the section of the learning curve; it is empty where the run has none.

    Args:
        result: Values of `result.json`; its `learning_curve` is what `LearningCurve.to_json` returned, and may have a
            `sentence` on what more labels would bring.
    """
    curve = result.get("learning_curve")
    given = curve.get("points") if isinstance(curve, Mapping) else None
    points = [one for one in given or () if isinstance(one, Mapping) and _is_point(one)]
    if not isinstance(curve, Mapping) or not points:
        return Section("Learning curve")
    name = str(curve.get("metric", "metric"))
    measured = Series("measured", [(float(one["labels"]), float(one["value"])) for one in points], dots=True)
    axis = Axis(title(name), "{:.3g}".format)
    picture = line_plot("Learning curve", [measured, *_fitted(curve, points)], Axis("labels"), axis)
    rows = [[f"{one['labels']:,}", shown(name, one)] for one in points]
    return Section(
        "Learning curve",
        str(curve.get("sentence") or ""),
        tables=[Table(["labels", title(name)], rows, words=0)],
        pictures=[picture],
        note="Models that learned from growing parts of the labels, measured on the same rows. The curve is followed "
        "to twice the labels; the farther, the less it says.",
    )


def _is_point(one: Mapping[str, Any]) -> bool:
    return isinstance(one.get("labels"), int | float) and isinstance(plain(one), int | float)


def _fitted(curve: Mapping[str, Any], points: list[Mapping[str, Any]]) -> list[Series]:
    """Return the fitted curve as a series; none where it was not recorded whole."""
    floor, scale, power = (curve.get(name) for name in ("floor", "scale", "power"))
    if not (isinstance(floor, int | float) and isinstance(scale, int | float) and isinstance(power, int | float)):
        return []
    first, last = float(points[0]["labels"]), _BEYOND * float(points[-1]["labels"])
    places = [first * (last / first) ** (number / _STEPS) for number in range(_STEPS + 1)] if first > 0 else []
    error = [floor + scale * place**-power for place in places]
    values = error if curve.get("metric") in SMALLER_IS_BETTER else [1 - one for one in error]
    return [Series("fitted", list(zip(places, values, strict=True)), faint=True)]

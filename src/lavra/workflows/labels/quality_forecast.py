"""What quality labelled rows will give, and what more labels would bring, by the learning curve of a linear model.

Linear models are fitted to growing parts of the training rows in seconds, and measured on training rows that they never
saw. The curve through their scores is followed to all training rows, and a little beyond.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavra.config.training import TrainConfig
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.examples.labelled import PSEUDO, LabelColumns
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.learning_curve import FEWEST_SIZES, LearningCurve, learning_curve
from lavra.evaluation.labels.metrics import METRICS, SMALLER_IS_BETTER
from lavra.models.linear.fitting import STRENGTHS, fit_linear
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.linear_baseline import is_available, texts_of
from lavra.workflows.labels.inner_rows import InnerRows, Predict, inner_rows
from lavra.workflows.labels.table_rows import RowsInMemory

FILE = "learning_curve.json"
"""Name of the record of the learning curve in the folder of a run."""

FOLDS = 3
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_MOST_SIZES = 4
_FEWEST_ROWS = 16
"""Fewest rows that a point of the curve learns from; of many classes, two of each."""

_MORE = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
"""Numbers of further labels of which is said what they would bring: the one nearest to a quarter of what there is."""

SHARE = 0.05
"""Share of a time budget that a learning curve may take, and its seconds where there is no budget."""
SECONDS = 20.0


def forecast_quality(
    task: LabelledTextTask,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    strength: float,
    *,
    seconds: float = SECONDS,
    measured: int | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> LearningCurve | None:
    """Return the learning curve of linear models inside training rows, after saying what it forecasts.

    Args:
        task: The task.
        facts: What the task knows of the data.
        rows: The columns of the training rows, with their texts.
        strength: Inverse penalty of the linear models, as it was chosen for all rows.
        seconds: Time that there is; where it does not suffice for three sizes, there is no curve, and that is said.
        measured: Number of rows on which the model will be measured; None where that is not known.
        seed: Seed of the parts and of the intervals.
        clock: Returns the time in seconds.

    Returns:
        The curve; None where there are too few rows or too little time.
    """
    rows = [row for row in rows if row.get("source") != PSEUDO]
    try:
        inner = inner_rows(task, facts, rows, FOLDS, seed)
    except InputError:  # too few groups or copies of one text
        return None
    shares = [] if inner is None else _shares(inner)
    if inner is None or len(shares) < FEWEST_SIZES:
        log("too few rows for a learning curve, so that no quality is forecast")
        return None
    found = curve_of(inner, linear_predict(inner, facts, strength, seed), shares, len(inner.rows), seconds, clock)
    if found is None:
        log(f"no learning curve: {seconds:.0f} s do not suffice for linear models of {FEWEST_SIZES} sizes")
    else:
        log(f"forecast of the linear model: {told(found, measured)}")
    return found


def forecast_rows(
    config: TrainConfig,
    task: LabelledTextTask,
    reader: LabelColumns,
    rows: Sequence[Mapping[str, Any]],
    measured: int | None = None,
) -> LearningCurve | None:
    """Return the learning curve of linear models inside rows for which none was fitted yet; see `forecast_quality`.

    Args:
        config: The request.
        task: The task.
        reader: What read the rows.
        rows: The columns of the rows, with their texts.
        measured: Number of rows on which the model will be measured; None where that is not known.
    """
    if not is_available():
        return None
    head = {"class_weights": config.head.class_weights}
    facts = {
        **task.label_facts(reader.labels[0], RowsInMemory(rows, reader)),
        "columns": reader.to_json(),
        "head": head,
    }
    options = STRENGTHS["ridge" if task.kind in ("values", "ordinal") else "logistic"]
    seconds = SECONDS if config.budget is None else SHARE * config.budget
    strength = options[len(options) // 2]
    return forecast_quality(task, facts, rows, strength, seconds=seconds, measured=measured, seed=config.seed)


def linear_predict(inner: InnerRows, facts: Mapping[str, Any], strength: float, seed: int) -> Predict:
    """Return what fits a linear model to rows and applies it to others."""
    texts, weights = texts_of(inner.rows), inner.weights
    balanced = facts["head"]["class_weights"] == "balanced" and inner.kind == "classes"

    def predict(learned: Any, asked: Any) -> Any:
        model = fit_linear(
            [texts[row] for row in learned.tolist()],
            inner.targets[learned],
            inner.classes,
            inner.kind,
            weights=weights[learned],
            class_weights="balanced" if balanced else None,
            strength=strength,
            seed=seed,
        )
        return model.predict_proba([texts[row] for row in asked.tolist()])

    return predict


def curve_of(
    inner: InnerRows,
    predict: Predict,
    shares: Sequence[float],
    labels: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> LearningCurve | None:
    """Return the learning curve of models inside training rows; None where the time does not suffice.

    Args:
        inner: The rows.
        predict: Fits a model and applies it.
        shares: Shares of the rows that the models learn from, rising.
        labels: Number of labels that there are.
        seconds: Time that there is.
        clock: Returns the time in seconds.
    """
    began, sizes, tables, rate = clock(), list[float](), list[Any](), 0.0
    for share in shares:
        size, before = inner.size(share), clock()
        if before - began + rate * size > seconds:
            break
        try:
            tables.append(inner.out_of_fold(predict, share))
        except InputError:  # so small a part may hold one class only
            continue
        sizes.append(size)
        rate = max(rate, (clock() - before) / size)
    if len(sizes) < FEWEST_SIZES:
        return None
    return learning_curve(sizes, tables, METRICS[inner.kind][0], labels=labels, seed=inner.seed)


def _shares(inner: InnerRows) -> list[float]:
    fewest = max(_FEWEST_ROWS, 2 * len(inner.classes) if inner.kind in ("classes", "ordinal") else 0)
    return [share for share in _SHARES if inner.size(share) >= fewest][-_MOST_SIZES:]


def more_labels(labels: int) -> int:
    """Return the number of further labels of which is said what they would bring.

    Examples:
        >>> more_labels(2000), more_labels(120)
        (500, 50)
    """
    return min(_MORE, key=lambda more: abs(math.log(4 * more / max(1, labels))))


def told(curve: LearningCurve, measured: int | None = None) -> str:
    """Return the forecast in words: the quality with all labels, and what more of them would bring.

    Args:
        curve: The curve.
        measured: Number of rows on which the model will be measured; None where that is not known.
    """
    where = "" if measured is None else f" on {counted(measured, 'row')} like these"
    forecast = _named(curve.metric, curve.at(curve.labels, rows=measured))
    return f"{forecast}{where} by the learning curve; {curve.sentence(more_labels(curve.labels))}"


def _named(metric: str, found: Estimate) -> str:
    ends = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{metric.replace('_', ' ')} {found.value:.3f}{ends}"


def surprise(curve: LearningCurve | None, value: float, measured: int) -> str:
    """Return in words that a measured quality lies outside of its forecast; empty where it does not.

    The forecast holds for rows like the training rows, so that other rows are the usual reason.

    Args:
        curve: The curve; None where there was none.
        value: The metric of the linear model on the validation rows.
        measured: Number of these rows.
    """
    if curve is None:
        return ""
    forecast = curve.at(curve.labels, rows=measured)
    if forecast.low is None or forecast.high is None or forecast.low <= value <= forecast.high:
        return ""
    easier = (value > forecast.high) != (curve.metric in SMALLER_IS_BETTER)
    return (
        f"note: {curve.metric.replace('_', ' ')} {value:.3f} of the linear model lies outside of its forecast, "
        f"[{forecast.low:.3f}, {forecast.high:.3f}]: the validation rows are {'easier' if easier else 'harder'} than "
        "the training rows, or of another kind"
    )


# The record in the folder of a run.


def write_curve(run: Path, curve: LearningCurve | None, measured: int | None = None) -> None:
    """Write a learning curve with its forecast into the folder of a run; nothing for None.

    Args:
        run: The folder.
        curve: The curve.
        measured: Number of rows on which the model will be measured; None where that is not known.
    """
    if curve is not None:
        write_json(run / FILE, curve_record(curve, measured))


def curve_record(curve: LearningCurve, measured: int | None = None) -> dict[str, Any]:
    """Return a learning curve with its forecast as plain values.

    Args:
        curve: The curve.
        measured: Number of rows on which the model will be measured; None where that is not known.
    """
    forecast = {"labels": curve.labels, "rows": measured, **curve.at(curve.labels, rows=measured).to_json()}
    sentence = f"linear model: {told(curve, measured)}"
    return {**curve.to_json(), "model": "linear", "forecast": forecast, "sentence": sentence}


def recorded_curve(run: Path) -> dict[str, Any]:
    """Return as `learning_curve` what `write_curve` wrote into the folder of a run; nothing where it wrote nothing.

    Args:
        run: The folder.
    """
    return {"learning_curve": read_json(run / FILE)} if (run / FILE).exists() else {}

"""The linear baseline of a training run: fitted before the first step, so that it is known what has to be beaten."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavra.core.progress import log
from lavra.core.units import show_duration
from lavra.evaluation.labels.metrics import METRICS, metric_value
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import SETTINGS, LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR, fit_baseline, is_available, linear_predictions, save_baseline
from lavra.workflows.labels.quality_forecast import SECONDS, SHARE, forecast_quality, surprise, write_curve
from lavra.workflows.training.job_parts import JobParts

_SHARE = 0.1
"""Share of a time budget that the choice of the baseline's penalty may take."""


def fit_linear_baseline(job: JobParts) -> None:
    """Fit the linear baseline of a run with one label for each text, and write it into the folder of the run.

    Args:
        job: The training job; one of another task, or without a record, gets none.
    """
    task, data, run = job.task, job.dataset, job.run
    if run is None or not isinstance(task, LabelledTextTask) or not isinstance(data, LabelledDataset):
        return
    if not is_available():
        log("no linear baseline stands beside the model: pip install 'lavra[classify]'")
        return
    began = time.monotonic()
    seconds = None if job.plan.budget_seconds is None else _SHARE * job.plan.budget_seconds
    model = fit_baseline(task, job.plan.facts, data, seconds, job.plan.seed)
    facts = {name: fact for name, fact in job.plan.facts.items() if name not in SETTINGS}  # those are the network's
    save_baseline(run.path / LINEAR, model, task.name, facts)
    if data.trained_on_all:
        return
    table = linear_predictions(model, task, job.plan.facts, list(data.labelled(validation=True)))
    metric = METRICS[task.kind][0]
    value = metric_value(table, metric)
    if job.config.deliver != "last":  # of a fold, all rows of the run say more
        forecast = SECONDS if job.plan.budget_seconds is None else SHARE * job.plan.budget_seconds
        forecast_and_compare(run.path, task, facts, data, model.strength, value, forecast, job.plan.seed)
    taken = show_duration(time.monotonic() - began)
    log(f"linear baseline on words and characters: {metric.replace('_', ' ')} {value:.3f} in {taken}")


def forecast_and_compare(
    run: Path,
    task: LabelledTextTask,
    facts: Mapping[str, Any],
    data: LabelledDataset,
    strength: float,
    value: float,
    seconds: float,
    seed: int,
) -> None:
    """Forecast the quality of a linear model inside its training rows, keep that, and say where it was not so.

    Args:
        run: The folder of the run.
        task: The task.
        facts: What the task knows of the data.
        data: The rows.
        strength: Inverse penalty of the model.
        value: Its metric on the validation rows.
        seconds: Time that there is.
        seed: Seed of the parts and of the draws.
    """
    measured = len(data.prepared.validation)
    rows = list(data.labelled())
    curve = forecast_quality(task, facts, rows, strength, seconds=seconds, measured=measured, seed=seed)
    write_curve(run, curve, measured)
    if note := surprise(curve, value, measured):
        log(note)

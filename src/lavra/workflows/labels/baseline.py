"""The linear baseline of a training run: fitted before the first step, so that it is known what has to be beaten."""

from __future__ import annotations

import time

from lavra.core.progress import log
from lavra.core.units import show_duration
from lavra.evaluation.labels.metrics import METRICS, metric_value
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import SETTINGS, LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR, fit_baseline, is_available, linear_predictions, save_baseline
from lavra.workflows.labels.quality_forecast import SECONDS, SHARE, forecast_quality, write_curve
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
    if job.config.deliver != "last":  # of a fold, all rows of the run say more
        forecast = SECONDS if job.plan.budget_seconds is None else SHARE * job.plan.budget_seconds
        rows = list(data.labelled())
        curve = forecast_quality(task, facts, rows, model.strength, seconds=forecast, seed=job.plan.seed)
        write_curve(run.path, curve)
    table = linear_predictions(model, task, job.plan.facts, list(data.labelled(validation=True)))
    metric = METRICS[task.kind][0]
    value = metric_value(table, metric)
    taken = show_duration(time.monotonic() - began)
    log(f"linear baseline on words and characters: {metric.replace('_', ' ')} {value:.3f} in {taken}")

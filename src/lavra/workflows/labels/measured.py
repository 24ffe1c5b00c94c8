"""A model of text that is measured by what it is for: after the run, the labels task learns from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import show_duration
from lavra.reports.formatting import shown, title
from lavra.reports.labels.headline import figures_of
from lavra.reports.run_page import page_at_the_end
from lavra.tasks.base import Task
from lavra.tasks.linear_baseline import LINEAR
from lavra.tasks.table import FROM_SCRATCH, choose_task, tasks
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.training.resume import resume
from lavra.workflows.training.train import train
from lavra.workflows.training.usual_length import MEASURING_SHARE, training_budget

FOLDER = "measured"
"""Name of the folder, in that of the run, of the run that learns the labels."""


def train_and_measure(config: TrainConfig, began: float | None = None) -> RunFolder:
    """Train a model of text, and measure it by the labels of other rows.

    The labels are learned in a run of their own, in the folder of the first, from its finished model. Nothing of these
    rows plays a part in the training of the first.

    Args:
        config: The request, which names the rows.
        began: When the command started (`time.monotonic`); now if None.

    Returns:
        The folder of the run, whose result holds the figures as `measured`.

    Raises:
        InputError: If the rows have no labels, or the run itself learns labels.
    """
    assert config.measure is not None
    place = os.path.abspath(os.path.expanduser(config.measure))
    _refuse(config, place)
    run = train(training_budget(replace(config, measure=place)), began)
    measure(run, config)
    return run


def measure(run: RunFolder, config: TrainConfig) -> None:
    """Measure a finished run by the rows that its request names, and add the figures to its result.

    A measurement that was interrupted goes on; one that is done is not done again.

    Args:
        run: The finished run.
        config: Its request.
    """
    assert config.measure is not None
    place, folder = os.path.abspath(os.path.expanduser(config.measure)), run.path / FOLDER
    if run.result.get("measured") is not None:
        return
    if is_run(folder) and RunFolder(folder).plan:
        done = resume(folder)
    else:
        done = train(_request(run, config, place, folder))
    figures, task = figures_of(done.result), done.result.get("task")
    linear = (done.result.get("baseline_scores") or {}).get(LINEAR)
    beside = {} if linear is None else {"baseline": linear}
    run.write_result({**run.result, "measured": {"data": place, "run": FOLDER, "task": task, **figures, **beside}})
    with page_at_the_end(run):  # the page was made before
        told = "" if linear is None else f"; a linear model on the same rows: {_told(figures_of(linear))}"
        log(f"measured on {place} ({task}): {_told(figures)}{told}; {folder}")


def _request(run: RunFolder, config: TrainConfig, place: str, folder: Path) -> TrainConfig:
    """Return the request of the run that learns the labels."""
    seconds, most = run.plan.get("budget_seconds"), _task_of(place).most_epochs
    length: dict[str, Any] = {} if most is None else {"epochs": most[0]}
    if seconds is not None:
        length = {"budget": seconds * MEASURING_SHARE / (1.0 - MEASURING_SHARE)}
    log(f"measuring on {place}" + (f", for {show_duration(length['budget'])}" if "budget" in length else ""))
    return TrainConfig(
        data=(place,),
        base=str(run.path),
        out=str(folder),
        force=True,
        seed=config.seed,
        machine=config.machine,
        samples=0,
        **length,
    )


def _refuse(config: TrainConfig, place: str) -> None:
    if not Path(place).exists():
        raise InputError(f"--measure {config.measure} does not exist", "give a file of rows with labels")
    if config.folds is not None or config.seeds > 1:
        raise InputError("--measure is for a run on text", "rows with labels are measured in any case: leave it out")
    asked, described = config.objective.name, describe_data(config)
    named = any(task.rows == "text" and (config.task == task.name or asked in task.objectives) for task in tasks())
    if not named and any(task.rows == "labelled" and task.recognises(described) for task in tasks()):
        raise InputError("--measure is for a run on text", "rows with labels are measured in any case: leave it out")
    if _task_of(place).rows != "labelled":
        raise InputError(
            f"--measure {config.measure}: these rows have no labels that are recognised",
            "give rows with text and label, such as `text` and `label`, or `tokens` and `tags`",
        )


def _task_of(place: str) -> Task:
    """Return the task that rows are for, by their columns."""
    described = describe_data(TrainConfig(data=(place,)))
    return choose_task("auto", "auto", "encoder", described, FROM_SCRATCH)[0]


def _told(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{title(name)} {shown(name, figure)}" for name, figure in figures.items())

"""A run whose model is linear: what `lavra train` makes of labelled rows where no pretrained model is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lavra.config.training import ModelConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.evaluation.labels.metrics import METRICS
from lavra.evaluation.labels.predictions_file import write_predictions
from lavra.models.linear.model import LinearModel
from lavra.tasks.base import Measured, Task
from lavra.tasks.datasets import DataDescription
from lavra.tasks.deciding_words import write_words
from lavra.tasks.labelled_dataset import LabelledDataset, leaks_of
from lavra.tasks.labelled_text import PREDICTIONS, UNMEASURED, LabelledTextTask, with_known
from lavra.tasks.linear_baseline import LINEAR, fit_baseline, is_available, linear_predictions, save_baseline
from lavra.tasks.table import FROM_SCRATCH, choose_task, kind_from_scratch
from lavra.workflows.datasets.preparation import describe_data, training_dataset
from lavra.workflows.labels.baseline import forecast_and_compare
from lavra.workflows.labels.labeller import DELIVERS
from lavra.workflows.labels.quality_forecast import SECONDS, SHARE, recorded_curve
from lavra.workflows.models.task_head import head_facts
from lavra.workflows.training.autoconfig import Machine

_SPEED = 1e11
"""FLOP/s that are assumed instead of measured: they would decide the size of a network, and there is none."""

_VOCABULARY = 512
"""Size of the vocabulary of the prepared rows, of which a linear model reads nothing but the texts."""


def is_linear_request(config: TrainConfig, described: DataDescription | None = None) -> bool:
    """Return whether a request is for a linear model: by its name, or labelled rows without any model.

    Args:
        config: The request.
        described: What is known of the data; read from them if None.

    Raises:
        InputError: If a linear model is asked for, and the rows have no single label each.
    """
    asked = config.model.preset == LINEAR
    if config.base is not None or not (asked or config.model == ModelConfig()):
        return False
    task = _task(config, described or describe_data(config))
    if isinstance(task, LabelledTextTask):
        if asked and not is_available():
            raise InputError("a linear model needs scikit-learn", "pip install 'lavra[classify]'")
        return is_available()
    if asked:
        raise InputError(
            f"--model linear labels texts, and the task is {task.name}", "give rows with a text and a label"
        )
    return False


def _task(config: TrainConfig, described: DataDescription) -> Task:
    return choose_task(config.task, config.objective.name, kind_from_scratch(config), described, FROM_SCRATCH)[0]


def train_linear(
    config: TrainConfig,
    run: RunFolder,
    began: float,
    *,
    known: Mapping[str, Any] | None = None,
    measure: Callable[[], Measured] | None = None,
) -> None:
    """Train a linear model on labelled rows, and measure it on those that are kept for validation.

    Args:
        config: The request.
        run: The folder of the run.
        began: When the command started (`time.monotonic`), from which a time budget counts.
        known: What is known of the labels from elsewhere, see `lavra.tasks.labelled_text.with_known`.
        measure: What measures the model; None for the validation rows.
    """
    if config.model.preset != LINEAR:
        log("no --from MODEL is given, so a linear model is trained; a pretrained model learns more from the same rows")
    described = describe_data(config)
    task = _task(config, described)
    assert isinstance(task, LabelledTextTask)
    data = _data(config, run.path, task)
    facts = with_known(task.facts(data), known or {})
    head = head_facts(config.head, "encoder", isolate=True, context=data.context or 0)
    facts = {**facts, "columns": data.columns_read, "head": head}
    left = None if config.budget is None else max(1.0, (1 - SHARE) * config.budget - (time.monotonic() - began))
    model = fit_baseline(task, facts, data, left, config.seed)
    for note in model.notes:
        log(note)
    save_baseline(run.path / LINEAR, model, task.name, facts)
    measured = _measured(task, model, facts, data, run.path, config.seed) if measure is None else measure()
    if measure is None and not data.trained_on_all and config.deliver != "last":
        seconds = SECONDS if config.budget is None else SHARE * config.budget
        value = measured.figures[METRICS[task.kind][0]]["value"]
        forecast_and_compare(run.path, task, facts, data, model.strength, value, seconds, config.seed)
    write_words(run.path, "weights", weights=model.deciding_words())
    taken = time.monotonic() - began
    plan = {"task": task.name, "objective": task.name, "model": {"preset": LINEAR}, "facts": facts, "seed": config.seed}
    run.write_plan({**plan, "parameters": int(model.weights.size)})
    run.write_result(
        {
            "task": task.name,
            DELIVERS: LINEAR,
            "parameters": int(model.weights.size),
            "seconds": taken,
            "data": list(config.data),
            **measured.figures,
            **leaks_of(data),
            **recorded_curve(run.path),
        }
    )
    log(measured.table)
    if leaks := leaks_of(data):
        log(leaks["leaks"]["sentence"])
    log(f"a linear model of {counted(int(model.weights.size), 'weight')}, in {show_duration(taken)}")


def _measured(
    task: LabelledTextTask, model: LinearModel, facts: Mapping[str, Any], data: LabelledDataset, run: Path, seed: int
) -> Measured:
    if data.trained_on_all:
        return UNMEASURED
    table = linear_predictions(model, task, facts, list(data.labelled(validation=True)))
    write_predictions(run / PREDICTIONS, table)
    return task.measured(facts, table, {}, seed)


def _data(config: TrainConfig, home: Path, task: Task) -> LabelledDataset:
    """Return the prepared rows, in the layout of all labelled rows."""

    asked = replace(
        config,
        text=replace(config.text, vocabulary=config.text.vocabulary or _VOCABULARY),
        model=replace(config.model, preset="auto"),
    )
    machine = Machine(torch.device("cpu"), "fp32", _SPEED, 1)
    data = training_dataset(asked, home, machine, None, task)
    assert isinstance(data, LabelledDataset)
    return data

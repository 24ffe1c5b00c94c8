"""Measuring a model with a head for labels: on the validation data of its run, or on rows that are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.data.examples.rows import read_examples
from lavra.data.readers.rows import BadRows, OnBadRow
from lavra.evaluation.labels.predictions_file import read_predictions
from lavra.models.protocols import device_of
from lavra.tasks.base import Measured, Trained
from lavra.tasks.datasets import Dataset
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.linear_baseline import linear_predictions, with_temperature
from lavra.tasks.opening import open_dataset
from lavra.training.plan import Plan
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.labels.given_rows import given_rows, task_of
from lavra.workflows.labels.labeller import LinearLabeller, columns_of
from lavra.workflows.labels.out_of_fold import OUT_OF_FOLD, beside_file, out_of_fold
from lavra.workflows.models.open import OpenModel


@dataclass(frozen=True)
class TaskEvaluation:
    """The result of the evaluation of a model with the head of a task.

    Attributes:
        model: The location of the model that was measured.
        task: The name of the task.
        measured: The figures of the task, with their table.
        reading: What was read and left out of the rows that were given; None for the validation data of the run.
        stopped_by: The signal that ended it early; it never is.
    """

    model: str
    task: str
    measured: Measured
    reading: dict[str, Any] | None = None
    stopped_by: None = None

    @property
    def table(self) -> str:
        """The figures as a table of plain text."""
        return self.measured.table

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        reading = {} if self.reading is None else {"reading": self.reading}
        return {"model": self.model, "task": self.task, **self.measured.figures, **reading}


def evaluate_labels(
    opened: OpenModel,
    data: Sequence[str],
    seed: int = 0,
    *,
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
) -> TaskEvaluation:
    """Measure a model with a head as its run did, on all of the validation data of that run or on given rows.

    Args:
        opened: The model.
        data: Files of rows with the columns of the training data; the validation data of the run if empty.
        seed: Seed of the bootstrap intervals.
        on_bad_row: What to do with rows that cannot be used.
        encoding: Encoding of the files; None recognises it.

    Raises:
        InputError: If the rows cannot be used, or no rows are given for a model without its run.
    """
    task, reader = task_of(opened)
    if not data and (known := _out_of_fold(opened.run, opened.place, task.name, seed)) is not None:
        return known
    if not data and opened.run is not None:
        folder = data_folder(request_of(opened.run), opened.run.path)
        plan, dataset = Plan.from_json(opened.run.plan, "plan.json"), open_dataset(folder)
        _refuse_learned(opened.place, dataset)
        plan = replace(plan, evaluation_tokens=dataset.validation_rows(plan) * plan.context, seed=seed)
        objective, device = task.objective(plan, opened.model, dataset), device_of(opened.model)
        measured = task.evaluate(Trained(opened.model, objective, dataset, plan, device, run=opened.run.path))
        return TaskEvaluation(opened.place, task.name, measured)
    if not data:
        raise InputError(f"{opened.place} keeps no rows of its own", "say what to measure on: --data FILES")
    bad_rows = BadRows(policy=on_bad_row)
    rows = read_examples(data, bad_rows, columns=reader, encoding=encoding)
    with given_rows(opened, rows, bad_rows, seed) as trained:
        if bad_rows.summary():
            log(bad_rows.summary())
        return TaskEvaluation(opened.place, task.name, task.evaluate(trained), bad_rows.report())


def _refuse_learned(place: str, dataset: Dataset) -> None:
    if isinstance(dataset, LabelledDataset) and dataset.trained_on_all:
        raise InputError(f"{place} learned all of its rows", "say what to measure on: --data FILES")


def _out_of_fold(run: RunFolder | None, place: str, task: str, seed: int) -> TaskEvaluation | None:
    """Return the out-of-fold quality of a cross-validated run, whose model learned all rows; None for other runs."""
    if run is None or not (run.path / OUT_OF_FOLD).exists():
        return None
    files = {name: run.path / beside_file(name) for name in ("linear", "network")}
    beside = {name: read_predictions(file) for name, file in files.items() if file.exists()}
    found = out_of_fold(read_predictions(run.path / OUT_OF_FOLD), beside, seed=seed)
    return TaskEvaluation(place, task, found.measured)


def evaluate_linear(
    labeller: LinearLabeller,
    data: Sequence[str],
    seed: int = 0,
    *,
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
) -> TaskEvaluation:
    """Measure a linear model, on the validation data of its run or on given rows; see `evaluate_labels`.

    Args:
        labeller: The model.
        data: Files of rows with the columns of the training data; the validation data of the run if empty.
        seed: Seed of the bootstrap intervals.
        on_bad_row: What to do with rows that cannot be used.
        encoding: Encoding of the files; None recognises it.
    """
    bad_rows, task, facts = BadRows(policy=on_bad_row), labeller.task, labeller.facts
    if not data and (known := _out_of_fold(labeller.run, labeller.place, task.name, seed)) is not None:
        return known
    if data:
        given = read_examples(data, bad_rows, columns=labeller.reader, encoding=encoding)
        rows = columns_of(given)
        if bad_rows.summary():
            log(bad_rows.summary())
    elif labeller.run is not None:
        dataset = open_dataset(data_folder(request_of(labeller.run), labeller.run.path))
        assert isinstance(dataset, LabelledDataset)
        _refuse_learned(labeller.place, dataset)
        rows = list(dataset.labelled(validation=True))
    else:
        raise InputError(f"{labeller.place} keeps no rows of its own", "say what to measure on: --data FILES")
    table = linear_predictions(labeller.model, task, facts, rows)
    table = table.with_probabilities(with_temperature(facts, table.probabilities))
    measured = task.measured(facts, table, {}, seed)
    return TaskEvaluation(labeller.place, task.name, measured, bad_rows.report() if data else None)

"""A model that labels texts, whatever it is: a network with a head, or a linear model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.errors import InputError
from lavra.data.examples.labelled import LabelReader
from lavra.data.examples.rows import ExampleRow
from lavra.data.readers.rows import BadRows
from lavra.generation.classifying import Classification
from lavra.models.linear.model import LinearModel
from lavra.models.protocols import device_of
from lavra.tasks.base import Measured, Task, Trained
from lavra.tasks.label_predictions import outputs_of
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR, linear_predictions, read_baseline, texts_of, with_temperature
from lavra.tasks.opening import open_dataset
from lavra.tasks.table import find_task
from lavra.training.plan import Plan
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.labels.given_rows import given_rows, task_of
from lavra.workflows.models.open import OpenModel

DELIVERS = "delivers"
"""Name of the entry of `result.json` that says which model of a run labels texts: `model` or `linear`."""

Predicted = tuple[int, Classification]
"""The number of a row among those that were given, and what is predicted for it."""


class Labeller(Protocol):
    """What labels texts.

    Attributes:
        place: The location of the model, in words.
        facts: What the task knows of its training data.
        run: The run that it comes from; None for none.
    """

    place: str
    facts: dict[str, Any]
    run: RunFolder | None

    @property
    def task(self) -> Task:
        """Its task."""
        ...

    @property
    def reader(self) -> LabelReader:
        """What reads its rows."""
        ...

    def predict(self, rows: Iterable[ExampleRow], bad_rows: BadRows) -> Iterator[Predicted]:
        """Yield the prediction of each row that can be used, in any order.

        Args:
            rows: Rows as the reader returns them.
            bad_rows: Is filled with what cannot be used.
        """
        ...

    def measure(self, rows: Sequence[ExampleRow] | None, bad_rows: BadRows, seed: int) -> Measured:
        """Return the figures of the model on rows, as its run measured it.

        Args:
            rows: Rows as the reader returns them; None for the validation data of the run, which there must be.
            bad_rows: Is filled with what cannot be used.
            seed: Seed of the bootstrap intervals.
        """
        ...


@dataclass
class NetworkLabeller:
    """A network with a head; see `Labeller`.

    Attributes:
        opened: The model.
    """

    opened: OpenModel

    def __post_init__(self) -> None:
        self.task, self._reader = task_of(self.opened)
        assert self.opened.task is not None
        self.facts, self.place, self.run = self.opened.task[1], self.opened.place, self.opened.run

    @property
    def reader(self) -> LabelReader:
        """What reads its rows."""
        return self._reader

    def predict(self, rows: Iterable[ExampleRow], bad_rows: BadRows) -> Iterator[Predicted]:
        """Yield the prediction of each row that can be used; see `Labeller`."""
        with given_rows(self.opened, rows, bad_rows) as trained:
            if not isinstance(self.task, LabelledTextTask):
                yield from self.task.predict(trained)
                return
            assert isinstance(trained.dataset, LabelledDataset)
            kept = list(trained.dataset.labelled(validation=True))
            for number, outputs in outputs_of(trained):
                shares = np.asarray(self.task.probabilities(self.facts, outputs.double()))
                yield kept[number]["row"], _classified(self.task, self.facts, kept[number], shares)

    def measure(self, rows: Sequence[ExampleRow] | None, bad_rows: BadRows, seed: int) -> Measured:
        """Return the figures of the model on rows; see `Labeller`."""
        if rows is not None:
            with given_rows(self.opened, rows, bad_rows, seed) as trained:
                return self.task.evaluate(trained)
        assert self.run is not None
        model, dataset = self.opened.model, learned_from(self.run)
        plan = Plan.from_json(self.run.plan, "plan.json")
        plan = replace(plan, evaluation_tokens=dataset.validation_rows(plan) * plan.context, seed=seed)
        objective, device = self.task.objective(plan, model, dataset), device_of(model)
        return self.task.evaluate(Trained(model, objective, dataset, plan, device, run=self.run.path))


@dataclass
class LinearLabeller:
    """A linear model; see `Labeller`.

    Attributes:
        model: The linear model.
        place: Its location, in words.
        task: Its task.
        facts: What the task knows of its training data.
        run: The run that it comes from; None for none.
    """

    model: LinearModel
    place: str
    task: LabelledTextTask
    facts: dict[str, Any]
    run: RunFolder | None

    @property
    def reader(self) -> LabelReader:
        """What reads its rows."""
        return self.task.reader_from(self.facts["columns"])

    def predict(self, rows: Iterable[ExampleRow], bad_rows: BadRows) -> Iterator[Predicted]:
        """Yield the prediction of each row; see `Labeller`."""
        columns = columns_of(rows)
        if not columns:
            raise InputError("no row can be used", bad_rows.remedy() or "give rows with text")
        numbers = with_temperature(self.facts, self.model.predict_proba(texts_of(columns)))
        for number, (row, shares) in enumerate(zip(columns, numbers, strict=True)):
            yield number, _classified(self.task, self.facts, row, shares)

    def measure(self, rows: Sequence[ExampleRow] | None, bad_rows: BadRows, seed: int) -> Measured:
        """Return the figures of the model on rows; see `Labeller`."""
        if rows is None:
            assert self.run is not None
            found = list(learned_from(self.run).labelled(validation=True))
        else:
            found = columns_of(rows)
        table = linear_predictions(self.model, self.task, self.facts, found)
        table = table.with_probabilities(with_temperature(self.facts, table.probabilities))
        return self.task.measured(self.facts, table, {}, seed)


def learned_from(run: RunFolder) -> LabelledDataset:
    """Return the data set that the model of a run learned from.

    Args:
        run: The run, of a task with labelled rows.

    Raises:
        InputError: If the data are gone.
    """
    dataset = open_dataset(data_folder(request_of(run), run.path))
    assert isinstance(dataset, LabelledDataset)
    return dataset


def columns_of(rows: Iterable[ExampleRow]) -> list[dict[str, Any]]:
    """Return the columns of rows, with their texts as `texts`, as data sets hold them."""
    return [{**row.labels, "texts": [row.prompt, row.completion] if row.completion else [row.prompt]} for row in rows]


def _classified(
    task: LabelledTextTask, facts: Mapping[str, Any], row: Mapping[str, Any], shares: np.ndarray
) -> Classification:
    named = {name: float(share) for name, share in zip(facts["classes"], shares, strict=True)}
    return Classification("\n".join(row["texts"]), task.answer(facts, shares), named)


def linear_at(location: str) -> LinearLabeller | None:
    """Return the linear model at a location: that of a run that delivers it, or a folder of one; None for others.

    Args:
        location: A run, the folder of a linear model, or any other location of a model.

    Raises:
        CorruptFile: If a file of the model is damaged.
    """
    folder, run = Path(location), None
    if is_run(folder):
        run = RunFolder(folder)
        if run.result.get(DELIVERS) != LINEAR:
            return None
        folder = folder / LINEAR
    found = read_baseline(folder)
    if found is None:
        return None
    model, name, facts = found
    task = find_task(name)
    assert isinstance(task, LabelledTextTask)
    return LinearLabeller(model, location, task, facts, run)

"""`lavra plan` of labelled rows: what there is to learn, what quality it will give, and how long the models take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lavra.config.planning import PlanRequest
from lavra.config.training import LabelsConfig, TrainConfig
from lavra.core.configuration import from_table, to_json
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_count, show_duration
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR
from lavra.tasks.table import FROM_SCRATCH, choose_task, kind_from_scratch
from lavra.training.batches import DistributedInfo
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.datasets.text import is_prepared
from lavra.workflows.labels.from_nothing import unlabelled_texts
from lavra.workflows.labels.linear_run import is_linear_request
from lavra.workflows.labels.quality_forecast import curve_record, forecast_rows
from lavra.workflows.labels.table_rows import TableRows, read_table
from lavra.workflows.training.autoconfig import given_seconds
from lavra.workflows.training.job import TrainingJob

_NAMED = 8  # classes that are named


@dataclass(frozen=True)
class LabelPlan:
    """What a training on labelled rows will take and reach.

    Attributes:
        task: Name of the task.
        rows: Number of rows with a label.
        unlabelled: Number of rows without a label, where pseudo-labels are asked for.
        classes: Number of rows of each class, the most frequent first; empty for numbers.
        models: Number of models that are trained: those of the folds, the students, and the final one.
        seconds: Time budget of each model; None where its length is given otherwise, or it is linear.
        network: The steps, passes and speed of the network, timed here; empty for a linear model.
        beside: Sentence on a network from nothing beside a linear model; empty where no text lacks a label.
        learning_curve: The forecast, as `result.json` of the run will hold it; empty where there is none.
    """

    task: str
    rows: int
    unlabelled: int
    classes: Mapping[str, int]
    models: int
    seconds: float | None
    network: Mapping[str, Any] = field(default_factory=dict)
    beside: str = ""
    learning_curve: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return to_json(self)

    def __str__(self) -> str:
        sections = ["\n".join(self._rows()), "models\n" + "\n".join(f"  {line}" for line in self._models())]
        forecast = self.learning_curve.get("sentence") or "none: the rows are too few, or scikit-learn is missing"
        return "\n\n".join([*sections, f"forecast\n  {forecast}"])

    def _rows(self) -> list[str]:
        lines = [f"{self.task}: {counted(self.rows, 'row')} with a label"]
        if self.unlabelled:
            lines[0] += f", {self.unlabelled:,} without"
        named = [f"{name} {count:,}" for name, count in list(self.classes.items())[:_NAMED]]
        if named:
            more = f", and {len(self.classes) - _NAMED} more" if len(self.classes) > _NAMED else ""
            lines.append(f"{counted(len(self.classes), 'class', 'classes')}: {', '.join(named)}{more}")
        return lines

    def _models(self) -> list[str]:
        each = "" if self.seconds is None else f" of about {show_duration(self.seconds)} each"
        if not self.network:
            lines = [f"{counted(self.models, 'linear model')} on words and parts of words, in seconds"]
            return [*lines, self.beside] if self.beside else lines
        found = self.network
        lines = [
            f"{counted(self.models, 'network')}{each}, of {show_count(found['parameters'])} parameters",
            f"{counted(found['steps'], 'step')}, {found['epochs']:.1f} passes over the training texts"
            + (f", at {show_count(found['speed'])} tokens/s here" if found.get("speed") else ""),
            "a linear model beside each, on the same rows; the better one on the validation texts labels texts",
        ]
        if found["epochs"] < 1:
            lines.append("warning: not every text is read once; a longer --budget, or a smaller model, will help")
        return lines


def labelled_task(request: TrainConfig) -> LabelledTextTask | None:
    """Return the task of a request whose rows have a label for each text; None for any other request.

    Args:
        request: The request of the plan.
    """
    if not request.data or is_prepared(request.data):
        return None
    kind = kind_from_scratch(request) if request.base is None else "encoder"
    try:
        task, _ = choose_task(
            request.task, request.objective.name, kind, describe_data(request), request.base or FROM_SCRATCH
        )
    except InputError:  # what is wrong with it is said by the plan of text
        return None
    return task if isinstance(task, LabelledTextTask) else None


def plan_labels(request: PlanRequest, task: LabelledTextTask) -> LabelPlan:
    """Forecast what a training on labelled rows takes and reaches, from linear models and some timed steps.

    Args:
        request: The request of the plan.
        task: Its task.

    Raises:
        InputError: If the rows or the request are wrong, or the plan is for other hardware.
    """
    if request.hardware != "this" or request.pilot:
        flag = "--pilot" if request.pilot else "--hardware"
        raise InputError(
            f"{flag} is for language modelling on text", "leave it out: labels are planned on this machine"
        )
    fields = set(to_json(TrainConfig()))
    config = from_table(TrainConfig, {k: v for k, v in to_json(request).items() if k in fields}, "lavra plan")
    reader = task.reader(describe_data(config))
    table = read_table(config, reader)
    trained = [row for row, held_out in zip(table.labels, table.validation, strict=True) if not held_out]
    measured = (len(table.labels) - len(trained)) or None
    curve = forecast_rows(config, task, reader, trained, measured)
    models, seconds = _models(config)
    linear = is_linear_request(config)
    return LabelPlan(
        task.name,
        len(table.fields),
        len(table.unlabelled),
        _classes(task, table),
        models,
        None if linear else seconds,
        {} if linear else _timed(config, seconds),
        _beside(config, task) if linear else "",
        {} if curve is None else curve_record(curve, measured),
    )


def _beside(config: TrainConfig, task: LabelledTextTask) -> str:
    """Return the sentence on a network from nothing beside a linear model."""
    if config.folds or config.labels.pseudo or config.seeds > 1 or config.model.preset == LINEAR:
        return ""
    return unlabelled_texts(config, task).sentence(config.budget)


def _models(config: TrainConfig) -> tuple[int, float | None]:
    """Return how many models are trained, and about how long each may take."""
    each = 2 if config.labels.pseudo else 1
    models = each * (config.folds * config.seeds + 1 if config.folds else config.seeds)
    budget = given_seconds(config)
    return models, None if budget is None else budget / models


def _classes(task: LabelledTextTask, table: TableRows) -> dict[str, int]:
    if task.kind == "values":
        return {}
    reader = table.reader
    facts = {**task.label_facts(reader.labels[0], table.dataset()), "columns": reader.to_json()}
    totals = task.targets(facts, table.labels).sum(axis=0)
    counts = Counter(dict(zip(facts["classes"], (round(float(one)) for one in totals), strict=True)))
    return dict(counts.most_common())


def _timed(config: TrainConfig, seconds: float | None) -> dict[str, Any]:
    """Return the length and the speed of the network, from the steps that its run would begin with."""
    alone = replace(config, folds=None, seeds=1, fold_by=None, labels=LabelsConfig(), budget=seconds)
    with scratch_folder() as folder:
        job = TrainingJob.create(alone, Path(folder), None, DistributedInfo())
        job.build()
        try:
            job.fit_to_budget()
        finally:
            job.close()
        plan = job.plan
    log("the steps that were timed are not kept")
    speed = plan.probe.get("tokens_per_second")
    return {"parameters": plan.parameters, "steps": plan.steps, "epochs": plan.epochs, "speed": speed}

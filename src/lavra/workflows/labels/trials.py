"""The runs that a run is made of: one for each fold and seed, and a student of each where that is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lavra.config.training import LabelsConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.errors import Interrupted
from lavra.evaluation.labels.joining import joined
from lavra.evaluation.labels.metrics import METRICS, metric_value
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.predictions_file import read_predictions
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import PREDICTIONS, LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR, linear_predictions, read_baseline
from lavra.tasks.opening import open_dataset
from lavra.tasks.table import find_task
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.labels.fold_rows import FoldRows
from lavra.workflows.labels.pseudo_labels import teacher_of, with_pseudo_labels
from lavra.workflows.training.resume import resume
from lavra.workflows.training.train import train


@dataclass(frozen=True)
class Trial:
    """One fold with one seed.

    Attributes:
        fold: Number of the fold.
        seed: Seed of the run.
        run: The folder of its run.
    """

    fold: int
    seed: int
    run: Path

    @property
    def student(self) -> Trial:
        """The same fold and seed, for the model that learns from pseudo-labels too."""
        return replace(self, run=self.run.with_name(f"{self.run.name}-student"))


def fold_request(
    config: TrainConfig, rows: FoldRows, fold: int, seed: int, out: str, share: float | None
) -> TrainConfig:
    """Return the request of the run of one fold, which is an ordinary one.

    Args:
        config: The request of the whole run.
        rows: Its rows.
        fold: Number of the fold.
        seed: Seed of the run.
        out: The folder of the run.
        share: Seconds of the run; None where its length is given otherwise.
    """
    return replace(
        config,
        data=rows.training(fold),
        task=rows.task,
        text=replace(config.text, validation=rows.validation(fold), encoding=None),
        out=out,
        force=True,
        seed=seed,
        folds=None,
        seeds=1,
        fold_by=None,
        deliver="last" if rows.count > 1 else config.deliver,  # the rows that measure a fold choose nothing
        budget=share,
        check=config.check and fold == 0 and seed == config.seed,  # the set-up of the others is the same
        labels=LabelsConfig(),
        track=(),
    )


def train_trial(asked: TrainConfig, known: Mapping[str, Any], run: RunFolder) -> RunFolder:
    """Train and measure the model of a trial, or take it to its end; nothing is done where it is finished.

    Args:
        asked: The request of the trial, whose `out` is its folder.
        known: What is known of the labels from elsewhere, see `TrainingJob.create`.
        run: The whole run, which a signal to stop names as the one to resume.
    """
    found = RunFolder(asked.out or "")
    if is_finished(found.path):
        return found
    try:
        if is_run(found.path) and found.plan.get("steps"):
            resume(found.path)
        else:
            train(asked, known=known)
    except Interrupted as stop:
        raise Interrupted(
            stop.message, f"continue with: lavra resume {run.path}", signal_number=stop.exit_code - 128
        ) from stop
    shutil.rmtree(found.checkpoints, ignore_errors=True)  # many, and of no use once the model is written
    found.checkpoints.mkdir(exist_ok=True)
    return found


def train_fold(config: TrainConfig, rows: FoldRows, trial: Trial, share: float | None, run: RunFolder) -> None:
    """Train and measure the model of a fold, and where pseudo-labels are asked for, its student too.

    Args:
        config: The request of the whole run.
        rows: Its rows.
        trial: The fold and the seed.
        share: Seconds of each model; None where its length is given otherwise.
        run: The whole run.
    """
    asked = fold_request(config, rows, trial.fold, trial.seed, str(trial.run), share)
    train_trial(asked, rows.known, run)
    if config.labels.pseudo:
        teacher = teacher_of(rows, trial.fold, trial.run)
        learning = with_pseudo_labels(asked, config, rows, teacher, trial.fold)
        train_trial(replace(learning, out=str(trial.student.run)), rows.known, run)


def is_finished(path: Path) -> bool:
    """Return whether a folder is that of a finished run."""
    return is_run(path) and RunFolder(path).status == "finished"


def predicted(trials: Sequence[Trial]) -> Predictions:
    """Return what the models of trials predict for the rows that they are measured on."""
    return joined([_of_trial(read_predictions(trial.run / PREDICTIONS), trial) for trial in trials])


def _of_trial(table: Predictions, trial: Trial) -> Predictions:
    """Return the table of a trial with the fold and the seed of each row."""
    folds, seeds = (np.full(len(table), number) for number in (trial.fold, trial.seed))
    return replace(table, folds=folds, seeds=seeds)


def told_of(trial: Trial, table: Predictions) -> dict[str, Any]:
    """Return what is recorded of the model of a trial.

    Args:
        trial: The trial.
        table: The predictions of all trials.
    """
    result = RunFolder(trial.run).result
    inside = table.select((table.folds == trial.fold) & (table.seeds == trial.seed))
    metric = METRICS[table.kind][0]
    return {
        "fold": trial.fold,
        "seed": trial.seed,
        **({"step": result["step"]} if "step" in result else {}),
        "rows": len(inside),
        metric: metric_value(inside, metric) if inside.known.any() else None,
    }


def mean_passes(trials: Sequence[Trial]) -> float:
    """Return the mean passes of the models of trials over their rows."""
    plans = [RunFolder(trial.run).plan for trial in trials]
    return float(np.mean([plan.get("epochs", 1.0) for plan in plans]))


def linear_beside(trials: Sequence[Trial]) -> Predictions | None:
    """Return what the linear models of trials, which stand beside the networks, predict.

    They are fitted to the same rows, with the first seed alone. None where there are none.
    """
    tables = []
    for trial in trials:
        run = RunFolder(trial.run)
        found = read_baseline(trial.run / LINEAR)
        if found is None:
            return None
        if trial.seed == trials[0].seed:
            model, name, facts = found
            task, data = find_task(name), open_dataset(data_folder(request_of(run), run.path))
            assert isinstance(task, LabelledTextTask)
            assert isinstance(data, LabelledDataset)
            table = linear_predictions(model, task, facts, list(data.labelled(validation=True)))
            tables.append(_of_trial(table, trial))
    return joined(tables)

"""The final model of a cross-validated run: trained on all rows, and measured by what the folds predicted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lavra.config.training import LabelsConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.tasks.base import Measured
from lavra.training.batches import DistributedInfo
from lavra.workflows.labels.fold_rows import FOLDER, FoldRows
from lavra.workflows.labels.linear_run import is_linear_request, train_linear
from lavra.workflows.labels.out_of_fold import OutOfFold, doubts_sentence
from lavra.workflows.labels.pseudo_labels import teacher_of, with_pseudo_labels
from lavra.workflows.labels.quality_forecast import recorded_curve
from lavra.workflows.labels.trials import train_trial
from lavra.workflows.training.autoconfig import given_seconds
from lavra.workflows.training.job import TrainingJob
from lavra.workflows.training.resume import go_on
from lavra.workflows.training.train import prepared_job

_TEACHER = "teacher"
"""Name of the folder of the run that labels rows for the final model."""


@dataclass(frozen=True)
class OutcomeOfFolds:
    """What the folds gave.

    Attributes:
        found: What follows from the predictions of the models that are delivered.
        passes: Passes over the rows that the models of the folds took, and that the final one will take.
        linear: Whether linear models were better than the networks beside them.
        students: Whether the final model learns from pseudo-labels too.
        teachers: Passes that the teachers took.
        told: What is recorded of the folds.
    """

    found: OutOfFold
    passes: float
    linear: bool
    students: bool
    teachers: float
    told: Mapping[str, Any] = field(default_factory=dict)


def train_final(config: TrainConfig, run: RunFolder, rows: FoldRows, outcome: OutcomeOfFolds, began: float) -> None:
    """Train the model on all rows for as many passes as the folds took, and write the result of the run.

    Args:
        config: The request of the whole run.
        run: Its folder.
        rows: Its rows.
        outcome: What the folds gave.
        began: When the command started (`time.monotonic`).
    """
    asked = _on_all_rows(config, rows, outcome.passes)
    if outcome.students:
        asked = _taught(config, asked, run, rows, outcome)
    known = {**rows.known, **outcome.found.settings}

    def measure() -> Measured:
        told = {**outcome.told, "passes": outcome.passes, "seconds": round(time.monotonic() - began, 3)}
        figures = {
            **outcome.found.measured.figures,
            "data": list(config.data),
            "budget_seconds": given_seconds(config),
            "cross_validation": told,
            **recorded_curve(run.path),
        }
        doubts = doubts_sentence(told["label_errors"])
        return Measured(figures, f"{outcome.found.measured.table}\n{doubts}".rstrip())

    if is_linear_request(asked):
        train_linear(asked, run, time.monotonic(), known=known, measure=measure)
        return
    if resumed := bool(run.plan):
        job = TrainingJob.restore(run, config=asked)
    else:
        log(f"one model on all {counted(rows.rows, 'row')}, {outcome.passes:.2f} passes as in the folds")
        job = prepared_job(asked, run, DistributedInfo(), time.monotonic(), known)
    job.measure = measure
    if resumed:
        go_on(job, run)
    else:
        job.fit()
        job.finish()


def _on_all_rows(config: TrainConfig, rows: FoldRows, passes: float) -> TrainConfig:
    return replace(
        config,
        data=rows.every(),
        task=rows.task,
        text=replace(config.text, validation_share=0.0, encoding=None),
        budget=None,
        tokens=None,
        epochs=passes,
        steps=None,
        check=False,
    )


def _taught(
    config: TrainConfig, asked: TrainConfig, run: RunFolder, rows: FoldRows, outcome: OutcomeOfFolds
) -> TrainConfig:
    """Return the request of the final student, after its teacher has learned all rows with a label."""
    path = run.path / FOLDER / _TEACHER
    first = replace(
        _on_all_rows(config, rows, outcome.teachers),
        out=str(path),
        force=True,
        folds=None,
        seeds=1,
        fold_by=None,
        deliver="last",
        labels=LabelsConfig(),
        track=(),
        samples=0,
    )
    train_trial(first, rows.known, run)
    return with_pseudo_labels(asked, config, rows, teacher_of(rows, None, path), None)

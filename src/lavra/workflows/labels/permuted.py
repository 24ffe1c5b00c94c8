"""The permuted-label check of a training job: its linear pipeline must learn nothing from shuffled labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lavra.checks.base import CheckResult
from lavra.checks.leaks import check_permuted_labels
from lavra.data.folds import ALWAYS_TRAINING
from lavra.models.linear.cross_validation import linear_out_of_fold
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.linear_baseline import is_available, texts_of
from lavra.workflows.labels.inner_rows import inner_rows
from lavra.workflows.training.job_parts import JobParts

_FOLDS = 2
_STRENGTH = 3.0
"""Inverse penalty of the linear models, which is not chosen anew: the check asks whether labels leak."""

_MOST_ROWS = 4000
"""Most rows that are taken, so that the check costs seconds, and most in its short form."""
_MOST_QUICK = 1000


def label_checks(job: JobParts, *, quick: bool = False) -> tuple[CheckResult, ...]:
    """Return the result of the permuted-label check; nothing for a job without one label for each text.

    The folds are those that cross-validation would make of the training rows: near duplicates and groups stay together.
    A copy of a row in another fold, or a stage that reads labels outside its fold, lets shuffled labels be predicted.

    Args:
        job: The training job, whose data are prepared.
        quick: Whether fewer rows are taken, for the short form before the first step.
    """
    task, data = job.task, job.dataset
    if not isinstance(task, LabelledTextTask) or not isinstance(data, LabelledDataset) or not is_available():
        return ()
    rows, facts = (
        [row for _, row in zip(range(_MOST_QUICK if quick else _MOST_ROWS), data.labelled(), strict=False)],
        job.plan.facts,
    )
    inner = inner_rows(task, facts, rows, _FOLDS)
    if inner is None:
        return ()
    measured = np.where(inner.folds.fold == 0, 0, ALWAYS_TRAINING)
    inner = replace(inner, folds=replace(inner.folds, fold=measured, count=1))  # the test measures one fold
    table = inner.table(_nothing(task, inner.targets))

    def pipeline(texts: Any, shuffled: np.ndarray, _fold: np.ndarray) -> np.ndarray:
        return linear_out_of_fold(
            texts, shuffled, inner.folds, facts["classes"], task.kind, weights=inner.weights, strength=_STRENGTH
        )

    return (check_permuted_labels(texts_of(inner.rows), table, pipeline, seed=job.plan.seed),)


def _nothing(task: LabelledTextTask, targets: np.ndarray) -> np.ndarray:
    """Return predictions that say nothing, which the check does not look at."""
    return np.full(targets.shape, 0.0 if task.kind == "values" else 1.0 / targets.shape[1])

"""Checking a training set-up: `lavra check`, on a run or on data and the model that would be trained on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lavra.checks.base import CheckResult
from lavra.checks.suite import FULL, Report
from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.training.batches import DistributedInfo
from lavra.workflows.datasets.text import request_of
from lavra.workflows.labels.fold_rows import write_rows
from lavra.workflows.labels.permuted import label_checks
from lavra.workflows.labels.permuted_stages import has_stages_with_labels, stage_check
from lavra.workflows.labels.several_models import task_of_rows
from lavra.workflows.training.checking import check_context, checked
from lavra.workflows.training.job import TrainingJob
from lavra.workflows.training.techniques import passes_of

_GPU_SECONDS = 60.0
"""Seconds that all checks may take on a GPU, whose time is dear; on a processor they take what they need."""


def check(config: TrainConfig, time_limit: float | None = None) -> Report:
    """Run all checks on a run, or on text and the model that would be trained on it.

    Args:
        config: The request, as for training. Its data may be the folder of one run, whose own request, text and weights
            are then checked.
        time_limit: Seconds for the checks, of which those that do not fit are left out and counted. None is a minute on
            a GPU, and no limit on a processor.

    Returns:
        The report, with a verdict, what was measured and what was expected for each check.

    Raises:
        InputError: If the text, the run or the request cannot be used.
    """
    if not config.data:
        raise InputError("nothing to check was given", "lavra check RUN, or lavra check DATA --model gpt2-124m")
    if len(config.data) == 1 and is_run(Path(config.data[0])):
        return _check_run(RunFolder(config.data[0]), time_limit)
    return _check_text(config, time_limit)


def _check_run(run: RunFolder, time_limit: float | None) -> Report:
    request_of(run)
    if not run.plan:
        raise InputError(f"{run.path} was stopped before its plan was made", "check its text: lavra check DATA")
    job = TrainingJob.restore(run, record=False)
    job.plan = replace(job.plan, compile=False)
    job.build()
    if job.checkpoint is not None:
        job.trainer.master_weights.load(job.checkpoint.load("master_weights"))
    try:
        context = check_context(job, loaded=job.checkpoint is not None)
        return checked(context, FULL, _limit(job, time_limit)).with_results(label_checks(job))
    finally:
        job.close()


def _check_text(config: TrainConfig, time_limit: float | None) -> Report:
    with scratch_folder() as folder:
        job = TrainingJob.create(config, Path(folder), None, DistributedInfo())
        assert job.machine is not None
        flops = job.plan.flops_per_token * passes_of(config.technique)
        expected = {"tokens_per_second": job.machine.expected_flops / flops}
        job.plan = replace(job.plan, compile=False, probe=expected)
        job.build()
        log(f"model: {job.plan.parameters:,} parameters, {job.plan.precision} on {job.plan.device}")
        try:
            report = checked(check_context(job), FULL, _limit(job, time_limit)).with_results(label_checks(job))
            return report.with_results(_stage_checks(config))
        finally:
            job.close()


def _stage_checks(config: TrainConfig) -> list[CheckResult]:
    """Return the outcome of the check of folds and pseudo-labels; nothing for a request without them."""
    if not has_stages_with_labels(config):
        return []
    with scratch_folder() as folder:
        found = stage_check(config, write_rows(config, folder, task_of_rows(config)))
        return [] if found is None else [found]


def _limit(job: TrainingJob, asked: float | None) -> float | None:
    """Return the seconds for the checks."""
    return asked or (_GPU_SECONDS if job.device.type == "cuda" else None)

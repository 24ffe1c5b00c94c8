"""`lavra train` and `lavra resume`: one run, or one of several: folds, a teacher and a student, or a sweep."""

from __future__ import annotations

from pathlib import Path

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.sweep_folder import is_sweep
from lavra.core.errors import InputError
from lavra.workflows.datasets.text import request_of
from lavra.workflows.labels.cross_validation import cross_validate, resume_folds
from lavra.workflows.labels.from_nothing import (
    began_from_nothing,
    may_begin_from_nothing,
    resume_from_nothing,
    train_from_nothing,
)
from lavra.workflows.labels.measured import measure, train_and_measure
from lavra.workflows.labels.staged_run import resume_stages, train_in_stages
from lavra.workflows.training.resume import resume as resume_one
from lavra.workflows.training.train import train as train_one
from lavra.workflows.tuning.sweep import resume_sweep


def train(config: TrainConfig, began: float | None = None) -> RunFolder:
    """Train a model as a request says: once, cross-validated where it names folds, in stages, or measured on labels.

    Args:
        config: The request.
        began: When the command started (`time.monotonic`), from which a time budget counts; now if None.

    Returns:
        The folder of the finished run.

    Raises:
        InputError: If the request is wrong, the data cannot be used, or the folder may not be written.
        CheckFailed: If a check found the set-up wrong, before the first step.
        Interrupted: After a signal to stop; `resume` continues.
        Diverged: If the loss stays not finite, by the policy for anomalies.
    """
    if config.measure is not None:
        return train_and_measure(config, began)
    if config.folds is not None:
        return cross_validate(config, began)
    if may_begin_from_nothing(config):
        return train_from_nothing(config, began)
    return train_in_stages(config, began) if has_stages(config) else train_one(config, began)


def has_stages(config: TrainConfig) -> bool:
    """Return whether a run on labelled rows has stages: an adaptation, a teacher and a student, or several seeds."""
    return config.labels.pseudo > 0 or config.labels.adapt > 0 or config.seeds > 1


def resume(
    folder: Path | str,
    *,
    micro_batch_size: int | None = None,
    steps: int | None = None,
    budget: float | None = None,
) -> RunFolder:
    """Continue an interrupted run to its end, cross-validated or not, or a sweep; or train a finished run for longer.

    Args:
        folder: The folder of the run.
        micro_batch_size: Sequences of a micro-batch; None keeps the number of the run.
        steps: Number of further steps of a finished run; None for no more.
        budget: Further time of a finished run in seconds, instead of steps.

    Returns:
        The folder of the finished run.

    Raises:
        InputError: If the folder is not a run, another process trains it, or its data are gone.
        CorruptFile: If there are checkpoints and none of them is whole.
        Interrupted: After a signal to stop; a checkpoint is written.
    """
    run = RunFolder.open(folder)
    flags = {"--micro-batch-size": micro_batch_size, "--steps": steps, "--budget": budget}
    given = next((flag for flag, value in flags.items() if value is not None), None)
    if is_sweep(run):
        if given is not None:
            raise InputError(f"{given} is for a single run", f"resume {run.path} without it")
        return resume_sweep(run).run
    config = request_of(run)
    new = config.base is None and (began_from_nothing(run) or may_begin_from_nothing(config))
    if config.folds is None and not new and not has_stages(config):
        done = resume_one(folder, micro_batch_size=micro_batch_size, steps=steps, budget=budget)
        if config.measure is not None:
            measure(done, config)
        return done
    if given is not None:
        raise InputError(f"{given} is for a single run", f"resume the model that is meant by its folder in {run.path}")
    if config.folds is not None:
        return resume_folds(run)
    stages = config.labels.pseudo > 0 or config.seeds > 1
    return resume_from_nothing(run) if new and not stages else resume_stages(run)

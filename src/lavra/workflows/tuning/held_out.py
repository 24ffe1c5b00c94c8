"""The figure that a sweep reports: the winner on validation data that did not choose it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.tasks.opening import open_held_out
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.training.job import TrainingJob

_LEAST = 65536
"""Tokens on which text is measured at least, where there are as many."""

_MORE = 4
"""Tokens on which the winner is measured for each on which the trials were."""


def measure_held_out(run: RunFolder, evaluated: int) -> dict[str, Any]:
    """Return the figures of a finished run on the half of the validation data that was kept apart.

    Args:
        run: The folder of the run, which still has its checkpoint.
        evaluated: Tokens on which the trials were measured.

    Returns:
        The figures, with intervals; empty where there is no such data or no checkpoint.
    """
    config = request_of(run)
    dataset = open_held_out(data_folder(config, run.path))
    if dataset is None:
        return {}
    job = TrainingJob.restore(run, config=config)
    delivered = run.result.get("delivered_step")
    store = CheckpointStore(run.checkpoints, config.keep_checkpoints)
    checkpoint = store.best() if delivered is not None else job.checkpoint
    if checkpoint is None:
        return {}
    job.build()
    try:
        job.trainer.restore(checkpoint.load, checkpoint.state)
    finally:
        job.close()
    job.undo_compilation()
    trained = job.trained()
    plan = replace(trained.plan, evaluation_tokens=max(_LEAST, _MORE * evaluated))
    with job.trainer.eval_mode():
        measured = job.task.evaluate(replace(trained, dataset=dataset, plan=plan, folder=None, run=None, deadline=None))
    return dict(measured.figures)

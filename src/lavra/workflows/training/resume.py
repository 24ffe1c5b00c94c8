"""Resuming an interrupted run, exactly where it stopped."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from lavra.core.disk.run_folder import RunFolder
from lavra.core.progress import log
from lavra.core.units import show_duration
from lavra.reports.run_page import page_at_the_end
from lavra.training.devices import choose_device
from lavra.training.distributed import join_ranks, wait_for_ranks
from lavra.workflows.datasets.text import request_of
from lavra.workflows.training.job import TrainingJob
from lavra.workflows.training.longer import lengthen, refuse_wrong_length
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.train import train


def resume(
    folder: Path | str,
    *,
    micro_batch_size: int | None = None,
    steps: int | None = None,
    budget: float | None = None,
) -> RunFolder:
    """Continue a run from its last whole checkpoint to its end, or train a finished one for longer.

    A run that was stopped before its plan was written starts from the beginning. With the same device, threads and
    micro-batch, the weights have the same bits as those of a run that was never interrupted.

    Args:
        folder: The folder of the run.
        micro_batch_size: Sequences of a micro-batch; None keeps the number of the run. The tokens of an update and the
            order of the data stay the same.
        steps: Number of further steps of a finished run, see `lavra.workflows.training.longer`; None for no more.
        budget: Further time of a finished run in seconds, instead of steps.

    Returns:
        The folder of the finished run.

    Raises:
        InputError: If the folder is not a run, another process trains it, or its text is gone; or if a longer training
            is asked for that cannot be.
        CorruptFile: If there are checkpoints and none of them is whole.
        Interrupted: After a signal to stop; a checkpoint is written.
    """
    run = RunFolder.open(folder)
    config = request_of(run)
    longer = steps is not None or budget is not None
    if longer:
        refuse_wrong_length(steps, budget)
    elif run.status == "finished":
        log(f"{run.path} is finished already; --steps or --budget trains it for longer")
        return run
    elif not run.plan:
        log(f"{run.path} was stopped before its plan was made; it starts from the beginning")
        return train(replace(config, out=str(run.path), force=True))
    ranks = join_ranks(choose_device(config.machine.device))
    first = ranks.rank == 0
    with run.training() if first else nullcontext(), page_at_the_end(run) if first else nullcontext():
        if longer and first:
            lengthen(run, steps=steps, budget=budget)
        wait_for_ranks(ranks)
        job = TrainingJob.restore(run, micro_batch_size=micro_batch_size)
        go_on(job, run)
    return run


def go_on(job: TrainingJob, run: RunFolder) -> None:
    """Take a restored job to its end.

    Args:
        job: The job, as `TrainingJob.restore` returned it.
        run: The folder of its run.
    """
    make_ready(job, run)
    job.fit()
    job.finish()


def make_ready(job: TrainingJob, run: RunFolder) -> None:
    """Build a restored job, and put the record of its run back to the step of its checkpoint.

    Args:
        job: The job, as `TrainingJob.restore` returned it; `fit` then goes on with it.
        run: The folder of its run.
    """
    begun = time.monotonic()
    job.build()
    step = 0
    if job.checkpoint is None:
        job.warm_start()
        job.measure_untrained()
    else:
        step = job.checkpoint.step
    if job.run is not None:
        run.rewind(step)
        run.log(f"resumed at step {step}")
        record_machine(run.path, job.device, step)
    ready = show_duration(time.monotonic() - begun)
    log(f"resuming after step {step:,} of {job.plan.steps:,} (ready after {ready})")

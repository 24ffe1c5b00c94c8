"""Resuming an interrupted run, exactly where it stopped."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import show_duration
from lavra.planning.plan import Plan
from lavra.reports.run_page import page_at_the_end
from lavra.training.devices import choose_device, use_threads
from lavra.training.distributed import join_ranks
from lavra.workflows.datasets.dataset import open_dataset
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.models.ngram_init import warm_start
from lavra.workflows.training.build import build_training_job
from lavra.workflows.training.finish import finish
from lavra.workflows.training.fit import checkpoint_store, fit
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.train import train


def resume(folder: Path | str, *, micro_batch_size: int | None = None) -> RunFolder:
    """Continue a run from its last whole checkpoint to its end.

    A run that was stopped before its plan was written starts from the beginning. With the same device, threads and
    micro-batch, the weights have the same bits as those of a run that was never interrupted.

    Args:
        folder: The folder of the run.
        micro_batch_size: Sequences of a micro-batch; None keeps the number of the run. The tokens of an update and the
            order of the data stay the same.

    Returns:
        The folder of the finished run.

    Raises:
        InputError: If the folder is not a run, another process trains it, or its text is gone.
        CorruptFile: If there are checkpoints and none of them is whole.
        Interrupted: After a signal to stop; a checkpoint is written.
    """
    run = RunFolder.open(folder)
    config = request_of(run)
    if run.status == "finished":
        log(f"{run.path} is finished already")
        return run
    if not run.plan:
        log(f"{run.path} was stopped before its plan was made; it starts from the beginning")
        return train(replace(config, out=str(run.path), force=True))
    device = choose_device(config.machine.device)
    distributed = join_ranks(device)
    if distributed.rank:
        return _resume(run, config, None, micro_batch_size)
    with run.training(), page_at_the_end(run):
        return _resume(run, config, run, micro_batch_size)


def _resume(run: RunFolder, config: TrainConfig, record: RunFolder | None, micro_batch_size: int | None) -> RunFolder:
    begun = time.monotonic()
    device = choose_device(config.machine.device)
    distributed = join_ranks(device)
    plan = Plan.from_json(run.plan, str(run.path / "plan.json"))
    if device.type != plan.device:
        log(
            f"the run was planned for {plan.device} and continues on {device.type}; from here on its results differ in "
            "the last bits"
        )
    use_threads(plan.threads)
    folder = data_folder(config, run.path)
    if not folder.exists():
        raise InputError(f"the text of the run is gone: {folder}", "bring the folder back, or train anew")
    data = open_dataset(folder)
    checkpoint = checkpoint_store(config, run).latest()
    if checkpoint is not None:
        micro_batch_size = micro_batch_size or checkpoint.state["micro_batch_size"]
    if micro_batch_size:
        share = plan.global_batch_size // distributed.world_size
        fitting = next(rows for rows in range(min(micro_batch_size, share), 0, -1) if share % rows == 0)
        plan = replace(plan, micro_batch_size=fitting)
    job = build_training_job(config, plan, data, record, device, distributed, run.path)
    if checkpoint is None:
        warm_start(job, plan, data)
    step = checkpoint.step if checkpoint is not None else 0
    if record is not None:
        record.rewind(step)
        record.log(f"resumed at step {step}")
        record_machine(record.path, device, step)
    log(f"resuming after step {step:,} of {plan.steps:,} (ready after {show_duration(time.monotonic() - begun)})")
    waited = fit(config, plan, job, data, record, distributed, checkpoint)
    if record is not None:
        finish(config, plan, job, data, record, waited=waited)
    return run

"""Resuming an interrupted run, exactly where it stopped."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.core.units import show_duration
from lavra.planning.plan import Plan
from lavra.reports.run_page import page_at_the_end
from lavra.training.devices import choose_device, use_threads
from lavra.training.distributed import join_ranks
from lavra.workflows.datasets.dataset import open_material
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.models.ngram_init import begin
from lavra.workflows.training.build import assemble
from lavra.workflows.training.finish import finish
from lavra.workflows.training.fit import checkpoint_store, train_to_the_end
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.train import train


def resume(folder: Path | str, *, micro_rows: int | None = None) -> RunFolder:
    """Continue a run from its last whole checkpoint to its end.

    A run that was stopped before its plan was written starts from the beginning. With the same device, threads and
    micro-batch, the weights have the same bits as those of a run that was never interrupted.

    Args:
        folder: The folder of the run.
        micro_rows: Sequences of a micro-batch; None keeps the number of the run. The tokens of an update and the order
            of the data stay the same.

    Returns:
        The folder of the finished run.

    Raises:
        InputError: If the folder is not a run, another process trains it, or its text is gone.
        Damaged: If there are checkpoints and none of them is whole.
        Interrupted: After a signal to stop; a checkpoint is written.
    """
    run = RunFolder.open(folder)
    config = request_of(run)
    if run.status == "finished":
        say(f"{run.path} is finished already")
        return run
    if not run.plan:
        say(f"{run.path} was stopped before its plan was made; it starts from the beginning")
        return train(replace(config, out=str(run.path), force=True))
    device = choose_device(config.machine.device)
    ranks = join_ranks(device)
    if ranks.rank:
        return _resume(run, config, None, micro_rows)
    with run.training(), page_at_the_end(run):
        return _resume(run, config, run, micro_rows)


def _resume(run: RunFolder, config: TrainConfig, record: RunFolder | None, micro_rows: int | None) -> RunFolder:
    begun = time.monotonic()
    device = choose_device(config.machine.device)
    ranks = join_ranks(device)
    plan = Plan.from_json(run.plan, str(run.path / "plan.json"))
    if device.type != plan.device:
        say(
            f"the run was planned for {plan.device} and continues on {device.type}; from here on its results differ in "
            "the last bits"
        )
    use_threads(plan.threads)
    folder = data_folder(config, run.path)
    if not folder.exists():
        raise InputError(f"the text of the run is gone: {folder}", "bring the folder back, or train anew")
    data = open_material(folder)
    checkpoint = checkpoint_store(config, run).latest()
    if checkpoint is not None:
        micro_rows = micro_rows or checkpoint.state["micro_rows"]
    if micro_rows:
        share = plan.rows_per_step // ranks.world
        fitting = next(rows for rows in range(min(micro_rows, share), 0, -1) if share % rows == 0)
        plan = replace(plan, micro_rows=fitting)
    assembly = assemble(config, plan, data, record, device, ranks, run.path)
    if checkpoint is None:
        begin(assembly, plan, data)
    step = checkpoint.step if checkpoint is not None else 0
    if record is not None:
        record.rewind(step)
        record.log(f"resumed at step {step}")
        record_machine(record.path, device, step)
    say(f"resuming after step {step:,} of {plan.steps:,} (ready after {show_duration(time.monotonic() - begun)})")
    waited = train_to_the_end(config, plan, assembly, data, record, ranks, checkpoint)
    if record is not None:
        finish(config, plan, assembly, data, record, waited=waited)
    return run

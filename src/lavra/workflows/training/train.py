"""`lavra train`: from data and a time budget to a trained and measured model in the folder of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavra.config.training import TrainConfig
from lavra.core.configuration import to_toml
from lavra.core.disk.run_folder import RunFolder, check_new_run
from lavra.core.errors import InputError
from lavra.core.machine import give_back_freed_memory
from lavra.core.progress import log
from lavra.core.units import counted, show_count, show_duration
from lavra.reports.run_page import page_at_the_end
from lavra.tasks.datasets import Dataset
from lavra.tasks.table import find_task
from lavra.training.batches import DistributedInfo
from lavra.training.devices import choose_device
from lavra.training.distributed import join_ranks, wait_for_ranks
from lavra.training.plan import Plan
from lavra.workflows.labels.baseline import fit_linear_baseline
from lavra.workflows.labels.linear_run import is_linear_request, train_linear
from lavra.workflows.models.open import refuse_absent
from lavra.workflows.training.compiled_parts import compiled_parts
from lavra.workflows.training.first_look import located, look_first, no_ghost
from lavra.workflows.training.forecast import seconds_by_peak, with_forecast
from lavra.workflows.training.job import TrainingJob, plan_writer
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.run_length import seconds_after
from lavra.workflows.training.techniques import cost_of_steps, perturbs_weights
from lavra.workflows.training.time_budget import TimeBudget, begins_alike


def train(config: TrainConfig, began: float | None = None, *, known: Mapping[str, Any] | None = None) -> RunFolder:
    """Train a model once, and measure it; a cross-validated run is made of several calls (`workflows.train`).

    Args:
        config: The request.
        began: When the command started (`time.monotonic`), from which a time budget counts; now if None.
        known: What is known of the labels from elsewhere, see `TrainingJob.create`.

    Returns:
        The folder of the finished run.

    Raises:
        InputError: If the request is wrong, the text cannot be used, or the folder may not be written.
        CheckFailed: If a check found the set-up wrong, before the first step.
        Interrupted: After a signal to stop; a checkpoint is written, and `resume` continues.
        Diverged: If the loss stays not finite, by the policy for anomalies.
    """
    began = time.monotonic() if began is None else began
    refuse_impossible(config)
    if config.folds is not None:
        raise InputError("--folds is for `lavra train` on rows with labels", "leave it out here")
    if config.labels.pseudo or config.labels.adapt:
        raise InputError("--labels.… are for `lavra train` on rows with labels", "leave them out here")
    if not config.data:
        raise InputError("no text was given", "lavra train FOLDER, or try: lavra train installed-docs: --budget 2m")
    if config.base is not None:
        refuse_absent(config.base)
    device = choose_device(config.machine.device)
    config = located(config)
    distributed = join_ranks(device)
    if distributed.rank == 0:
        folder = new_folder(config)
        check_new_run(folder, force=config.force, inputs=inputs_of(config))
        look_first(config)
        run = RunFolder.create(folder, to_toml(config), force=config.force, inputs=inputs_of(config))
        with no_ghost(run), run.training(), page_at_the_end(run):
            record_machine(run.path, device, 0)
            if is_linear_request(config):
                train_linear(config, run, began, known=known)
                return run
            job = prepared_job(config, run, distributed, began, known)
            job.fit()
            job.finish()
        return run
    return _follow(config, distributed, began)


def prepared_job(
    config: TrainConfig,
    run: RunFolder,
    distributed: DistributedInfo,
    began: float,
    known: Mapping[str, Any] | None = None,
) -> TrainingJob:
    """Return the job of a request before its first step: checked, with its plan made and written.

    Args:
        config: The request.
        run: The folder of the run.
        distributed: The place of this process among all.
        began: When the command started (`time.monotonic`).
        known: What is known of the labels from elsewhere, see `TrainingJob.create`.
    """
    job = TrainingJob.create(config, run.path, run, distributed, began, known)
    fit_linear_baseline(job)
    job.build()
    if config.check:
        job.check()
    job.warm_start()
    job.measure_untrained()
    job.fit_to_budget()
    assert job.machine is not None
    plan = replace(job.plan, probe={**job.plan.probe, "peak_flops": job.machine.peak})
    flops = job.machine.expected_flops * distributed.world_size / cost_of_steps(config.technique)
    left, spent = seconds_by_peak(plan, flops), time.monotonic() - began
    perturbs = perturbs_weights(config.technique)
    job.plan = plan = with_forecast(plan, job.dataset, run.path, spent, left, perturbs=perturbs)
    run.write_plan(plan.to_json())
    wait_for_ranks(distributed)
    give_back_freed_memory()
    _log_plan(plan, job.dataset, began, left)
    if job.trainer.step:
        log(f"{counted(job.trainer.step, 'step')} of these already taken, to measure the speed")
    if told := compiled_parts(plan, config.machine.compile):
        log(told)
    if plan.budget_seconds is not None and distributed.world_size == 1 and begins_alike(plan, config):
        after = seconds_after(plan, plan.probe["step_seconds"] / plan.batch_tokens)
        end = job.began + plan.budget_seconds - after
        job.time_budget = TimeBudget(plan, job.trainer.step, end, plan_writer(run))
    return job


def _follow(config: TrainConfig, distributed: DistributedInfo, began: float) -> RunFolder:
    """Train as a process that keeps no record: it takes part in the timed steps, then follows the plan of the first."""
    if config.out is None:
        raise InputError("several processes need --out, so that they find one folder", "add --out runs/NAME")
    job = TrainingJob.create(config, Path(config.out), None, distributed, began)
    run = RunFolder.open(config.out)
    job.build()
    job.warm_start()
    job.fit_to_budget()
    wait_for_ranks(distributed)
    job.set_plan(Plan.from_json(run.plan, str(run.path / "plan.json")))
    job.fit()
    return run


def _log_plan(plan: Plan, data: Dataset, began: float, left: float) -> None:
    """Say which model will be trained, for how long and how fast, before the first step.

    Args:
        plan: The plan of the run.
        data: The training data.
        began: When the command started (`time.monotonic`).
        left: The expected seconds of a run whose steps were not timed.
    """
    shape = f"context {plan.context}"
    if plan.model is not None:
        shape = f"{counted(plan.model.depth, 'block')}, width {plan.model.width}, {shape}, vocabulary "
        shape += f"{plan.model.vocabulary}"
    log(
        f"model: {show_count(plan.parameters)} parameters ({shape}), {plan.precision} on {plan.device}"
        + (", compiled" if plan.compile else "")
        + (f", {plan.objective}, from {plan.base}" if plan.base else "")
    )
    length = f"{show_count(plan.tokens)} tokens ({plan.epochs:.2f} epochs)"
    parts = [counted(plan.steps, "step"), length]
    if speed := plan.probe.get("tokens_per_second"):
        parts.append(f"{show_count(speed)} {find_task(plan.task).learns}/s")
    if "step_seconds" in plan.probe:
        parts.append(f"about {show_duration(plan.steps * plan.probe['step_seconds'])}")
    else:
        parts.append(f"roughly {show_duration(left)}, by what this machine usually reaches")
    ready = show_duration(time.monotonic() - began)
    log(f"ready after {ready}; an epoch has {show_count(data.epoch_tokens(plan))} tokens")
    log(" · ".join(parts))


def inputs_of(config: TrainConfig) -> list[str]:
    """Return the locations that a request reads: text, base model, tokenizer.

    Args:
        config: The request.
    """
    return [*config.data, *(one for one in (config.base, config.text.tokenizer) if one)]


def new_folder(config: TrainConfig) -> Path:
    """Return the folder of a new run: the one that is named, or the first free one below `runs/`.

    Args:
        config: The request.
    """
    if config.out is not None:
        return Path(config.out)
    name = "".join(letter if letter.isalnum() else "-" for letter in Path(config.data[0].rstrip("/:")).stem).strip("-")
    taken = 1
    while (folder := Path("runs") / f"{name or 'run'}-{taken:03d}").exists():
        taken += 1
    return folder

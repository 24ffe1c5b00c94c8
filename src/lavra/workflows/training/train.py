"""`lavra train`: from text and a time budget to a trained and measured model in the folder of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from lavra.config.training import TrainConfig
from lavra.core.configuration import to_toml
from lavra.core.disk.run_folder import RunFolder, check_new_run
from lavra.core.errors import InputError
from lavra.core.machine import give_back_freed_memory
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.planning.budget import demand_text
from lavra.planning.machine.timed_steps import TimedSteps, time_steps
from lavra.planning.plan import Plan
from lavra.reports.run_page import page_at_the_end
from lavra.training.acceleration.compiling import is_compiled
from lavra.training.batches import DistributedInfo
from lavra.training.deadline import Deadline
from lavra.training.devices import choose_device, describe
from lavra.training.distributed import join_ranks, wait_for_ranks
from lavra.workflows.check import check_before_training
from lavra.workflows.datasets.dataset import Dataset, open_dataset
from lavra.workflows.datasets.preparation import measured_machine, opened_base, training_dataset
from lavra.workflows.datasets.text import data_folder
from lavra.workflows.datasets.text_record import write_text_record
from lavra.workflows.models.base_model import certify_base, read_base
from lavra.workflows.models.ngram_init import warm_start
from lavra.workflows.models.open import refuse_absent
from lavra.workflows.training.autoconfig import (
    EVALUATION_SHARE,
    autoconfig,
    draft_model,
    log_plan,
    seconds_after,
    steps_in,
    with_length,
)
from lavra.workflows.training.build import TrainingJob, build_training_job
from lavra.workflows.training.finish import finish
from lavra.workflows.training.first_look import located, look_first, no_ghost
from lavra.workflows.training.fit import fit
from lavra.workflows.training.forecast import with_forecast
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.time_budget import TimeBudget, begins_alike

_PROBE_SHARE = 0.08
"""Share of a time budget that the timed steps take, and their least and most seconds."""
_LEAST_PROBE = 2.0
_LONGEST_PROBE = 20.0

_KEPT_SHARE = 0.15
"""The share and the most seconds where the timed steps stay part of the run: more, because they then cost nothing, and
more steps give a more reliable speed."""
_LONGEST_KEPT = 60.0


def train(config: TrainConfig) -> RunFolder:
    """Train a language model, and measure it.

    Args:
        config: The request.

    Returns:
        The folder of the finished run.

    Raises:
        InputError: If the request is wrong, the text cannot be used, or the folder may not be written.
        CheckFailed: If a check found the set-up wrong, before the first step.
        Interrupted: After a signal to stop; a checkpoint is written, and `resume` continues.
        Diverged: If the loss stays not finite, by the policy for anomalies.
    """
    refuse_impossible(config)
    if not config.data:
        raise InputError("no text was given", "lavra train FOLDER, or try: lavra train installed-docs: --budget 2m")
    if config.base is not None:
        refuse_absent(config.base)
    device = choose_device(config.machine.device)
    config = located(config)
    distributed = join_ranks(device)
    if distributed.rank == 0:
        folder = _new_folder(config)
        check_new_run(folder, force=config.force, inputs=inputs_of(config))
        look_first(config)
        run = RunFolder.create(folder, to_toml(config), force=config.force, inputs=inputs_of(config))
        with no_ghost(run), run.training(), page_at_the_end(run):
            return _train(config, run, device, distributed)
    return _follow(config, device, distributed)


def _train(config: TrainConfig, run: RunFolder, device: torch.device, distributed: DistributedInfo) -> RunFolder:
    begun = time.monotonic()
    record_machine(run.path, device, 0)
    machine = measured_machine(config, device)
    log(f"machine: {describe(device)}, {machine.peak / 1e9:,.0f} GFLOP/s of {machine.precision} matrix products")
    base = opened_base(config, device, run.path)
    data = training_dataset(config, run.path, machine, base)
    if base is None:
        demand_text(data.bytes)
    write_text_record(run.path, data_folder(config, run.path))
    if base is not None:
        certify_base(run.path, base, data.first_ids())
    wait_for_ranks(distributed)  # the others read what was prepared
    start = time.monotonic()
    plan = autoconfig(config, machine, base or draft_model(config, machine, data.bytes), data, distributed)
    job = build_training_job(config, plan, data, run, device, distributed, run.path)
    if config.check:
        check_before_training(job, plan, data, run)
    if base is not None:
        _measure_warm_start(job, run)
    plan = warm_start(job, plan, data)
    first = None
    if plan.budget_seconds is not None:
        plan, first = _probed(plan, job, config, data, start)
    plan = with_forecast(replace(plan, probe={**plan.probe, "peak_flops": machine.peak}), data)
    run.write_plan(plan.to_json())
    wait_for_ranks(distributed)
    give_back_freed_memory()
    log_plan(plan, machine, data, begun)
    time_budget = None
    if plan.budget_seconds is not None and distributed.world_size == 1 and begins_alike(plan, config):
        after = seconds_after(plan, plan.probe["step_seconds"] / plan.batch_tokens)
        time_budget = TimeBudget(plan, job.trainer.step, start + plan.budget_seconds - after, _writer(run))
    waited = fit(config, plan, job, data, run, distributed, first=first, time_budget=time_budget)
    plan = plan if time_budget is None else time_budget.plan
    if distributed.rank == 0:
        finish(config, plan, job, data, run, waited=waited, training_began=start)
    return run


def _follow(config: TrainConfig, device: torch.device, distributed: DistributedInfo) -> RunFolder:
    """Train as a process that keeps no record: it takes part in the timed steps, then follows the plan of the first."""
    if config.out is None:
        raise InputError("several processes need --out, so that they find one folder", "add --out runs/NAME")
    machine = measured_machine(config, device)
    wait_for_ranks(distributed)
    start = time.monotonic()
    run = RunFolder.open(config.out)
    data = open_dataset(data_folder(config, run.path))
    base = read_base(config, device, examples=data.examples) if config.base else None
    plan = autoconfig(config, machine, base or draft_model(config, machine, data.bytes), data, distributed)
    job = build_training_job(config, plan, data, None, device, distributed, run.path)
    warm_start(job, plan, data)
    if plan.budget_seconds is not None:
        _probed(plan, job, config, data, start)
    wait_for_ranks(distributed)
    plan = Plan.from_json(run.plan, str(run.path / "plan.json"))
    job.set_length(config, plan, data)
    fit(config, plan, job, data, None, distributed)
    return run


def _measure_warm_start(job: TrainingJob, run: RunFolder) -> None:
    """Print the validation loss of the model before its first step, and log it as step 0."""
    validation, loss = job.validation, _measure_validation(job)
    if validation is None or loss is None:
        return
    record = validation.record(0, 0, loss)
    run.metrics.append(record)
    log(
        f"before the first step: validation loss {loss:.4f}, perplexity {record['perplexity']:.4g}, "
        f"{record['bits_per_byte']:.4f} bits per byte"
    )


def _measure_validation(job: TrainingJob) -> float | None:
    """Return the validation loss at the present step; None without validation."""
    validation, trainer = job.validation, job.trainer
    if validation is None:
        return None
    with trainer.eval_mode():
        return validation.loss(trainer.model, trainer.objective, trainer.batches.micro_batch_size, trainer.device)


def _probed(
    plan: Plan, job: TrainingJob, config: TrainConfig, data: Dataset, start: float
) -> tuple[Plan, TimedSteps | None]:
    """Take and time the first steps, and set the length of the run so that all of it fits the time budget.

    Returns:
        The plan, and the timed steps where they stay part of the run, because a longer or shorter run would have
        started with the same steps; else None.
    """
    budget = plan.budget_seconds or 0.0
    kept = begins_alike(plan, config) and job.trainer.batches.distributed.world_size == 1
    share, longest = (_KEPT_SHARE, _LONGEST_KEPT) if kept else (_PROBE_SHARE, _LONGEST_PROBE)
    seconds = min(longest, max(_LEAST_PROBE, share * budget))
    job.trainer.deadline = Deadline(start + (1.0 - EVALUATION_SHARE) * budget)
    timed = time_steps(job.trainer, seconds)
    if is_compiled(job.trainer):
        _measure_validation(job)  # compiles the forward pass on its own, before the time that is left is reckoned
    plan = replace(plan, compile=is_compiled(job.trainer))
    probe, guess = timed.probe, plan
    per_token = probe.step_seconds / plan.batch_tokens
    plan = with_length(plan, plan.steps, config, data, per_token)
    left, taken = budget - (time.monotonic() - start), len(timed.reports)
    more = steps_in(left, probe.step_seconds, plan, per_token)
    plan = with_length(plan, more + taken if kept else more, config, data, per_token)
    if not (kept and _same_lrs(guess, plan, taken)):
        timed.take_back()
        plan, kept = with_length(plan, more, config, data, per_token), False
    job.set_length(config, plan, data)
    figures = {
        "first_step_seconds": probe.first_step_seconds,
        "step_seconds": probe.step_seconds,
        "steps": float(probe.steps),
        "tokens_per_second": probe.tokens_per_second,
    }
    plan = replace(plan, probe=figures, micro_batch_size=job.trainer.batches.micro_batch_size)
    return plan, timed if kept else None


def _same_lrs(guess: Plan, plan: Plan, steps: int) -> bool:
    """Return whether two lengths of a run have the same learning rates in the first steps."""
    return all(
        guess.schedule.factor(step, guess.steps) == plan.schedule.factor(step, plan.steps) for step in range(steps)
    )


def _writer(run: RunFolder) -> Callable[[Plan], None]:
    """Return the function that logs and writes a plan whose length was set again."""

    def write(plan: Plan) -> None:
        run.log(f"by the speed so far, the run has {counted(plan.steps, 'step')}, not {run.plan['steps']:,}")
        run.write_plan(plan.to_json())

    return write


def inputs_of(config: TrainConfig) -> list[str]:
    """Return the locations that a request reads: text, base model, tokenizer.

    Args:
        config: The request.
    """
    return [*config.data, *(one for one in (config.base, config.text.tokenizer) if one)]


def _new_folder(config: TrainConfig) -> Path:
    if config.out is not None:
        return Path(config.out)
    name = "".join(letter if letter.isalnum() else "-" for letter in Path(config.data[0].rstrip("/:")).stem).strip("-")
    taken = 1
    while (folder := Path("runs") / f"{name or 'run'}-{taken:03d}").exists():
        taken += 1
    return folder

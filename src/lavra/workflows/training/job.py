"""The training job: one run from its request, or from its folder, to its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lavra.config.training import TrainConfig
from lavra.core.configuration import to_json
from lavra.core.disk.files import write_json
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import Waiting, log
from lavra.core.units import counted, show_count, show_duration
from lavra.models.presets import named_vocabulary
from lavra.objectives.z_loss import with_z_loss
from lavra.planning.budget import demand_text
from lavra.planning.machine.timed_steps import time_steps
from lavra.tasks.base import Task
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import with_known
from lavra.tasks.opening import open_dataset
from lavra.tasks.table import FROM_SCRATCH, choose_task, find_task, kind_from_scratch
from lavra.training.acceleration.compiling import compile_step, is_compiled
from lavra.training.batches import BatchSource, DistributedInfo
from lavra.training.callbacks import Callbacks
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.deadline import Deadline
from lavra.training.devices import choose_device, describe, use_threads
from lavra.training.distributed import join_ranks, max_over_ranks, wait_for_ranks
from lavra.training.loop import Intervals, Loop, Units
from lavra.training.plan import Plan
from lavra.training.trackers import make_tracker
from lavra.training.trainer import Trainer
from lavra.training.updates import SnapshotAverage, Stability
from lavra.training.validation import Validation
from lavra.workflows.datasets.preparation import describe_data, measured_machine, opened_base, training_dataset
from lavra.workflows.datasets.text import data_folder, is_prepared, request_of
from lavra.workflows.datasets.text_record import write_text_record
from lavra.workflows.labels.permuted import label_checks
from lavra.workflows.labels.probe import fit_head
from lavra.workflows.models.base_model import Base, certify_base, read_base
from lavra.workflows.models.ngram_init import warm_start
from lavra.workflows.models.saved_base import finish_model, initial_model
from lavra.workflows.models.task_head import head_facts
from lavra.workflows.training.autoconfig import Machine, autoconfig, draft_model, given_seconds, learner_of
from lavra.workflows.training.best_step import OverfittingWatch, with_early_stopping
from lavra.workflows.training.checking import CHECKS, check_context, quick_checks
from lavra.workflows.training.finish import finish
from lavra.workflows.training.forecast import live_forecasts
from lavra.workflows.training.job_parts import JobParts
from lavra.workflows.training.run_length import EVALUATION_SHARE
from lavra.workflows.training.spikes import Advisor, SpikeWatch
from lavra.workflows.training.surgery import measure_surgery
from lavra.workflows.training.techniques import cost_of_first_steps, cost_of_steps, passes_of, with_techniques
from lavra.workflows.training.time_budget import length_by_speed, plan_for_timing, probe_seconds
from lavra.workflows.training.updates import (
    anomaly_recorder,
    first_snapshot,
    reporter,
    stability_every,
    update_chain,
)
from lavra.workflows.training.usual_length import with_usual_length

_MOST_LOGGED = 5000
"""Most lines of training metrics that a run writes."""


class TrainingJob(JobParts):
    """One training run, from its request or from its folder to its result; its attributes are those of `JobParts`.

    `create` and `restore` make a job, `build` makes the model and the trainer, and then come `check`, `warm_start` and
    `fit_to_budget` (before a first step), `fit` and `finish`. A resumed run goes from `build` to `fit`.
    """

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        home: Path,
        run: RunFolder | None,
        distributed: DistributedInfo,
        began: float | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> TrainingJob:
        """Return the job of a request: the data are prepared, the base model is opened, and the plan is made.

        The first process does that, and the others read what it wrote.

        Args:
            config: The request.
            home: The folder of the run, which gets the prepared data and a copy of the base model.
            run: The record of the run; None for a check, and on processes that keep none.
            distributed: The place of this process among all.
            began: When the command started (`time.monotonic`), from which a time budget counts; now if None.
            known: What is known of the labels from elsewhere, such as the classes of all rows where the data are a part
                of them (`lavra.tasks.labelled_text.with_known`).

        Raises:
            InputError: If the request is wrong or the data cannot be used.
        """
        began = time.monotonic() if began is None else began
        device = choose_device(config.machine.device)
        machine = measured_machine(config, device)
        first = distributed.rank == 0
        if first:
            speed = f"{machine.peak / 1e9:,.0f} GFLOP/s of {machine.precision} matrix products"
            log(f"machine: {describe(device)}, {speed}")
        described = describe_data(config)
        prepared = _prepared(config, home, machine, described) if first else None
        wait_for_ranks(distributed)  # the others read what was prepared
        base, task, objective, data = prepared or _read_prepared(config, home, device, described)
        config = with_usual_length(config, task, objective)
        spent = max_over_ranks(time.monotonic() - began, distributed)
        model = base or draft_model(config, machine, data.bytes, spent)
        learner = learner_of(config, model, data, task, objective)
        facts, asked = task.facts(data), task.asked(config, described)
        if isinstance(data, LabelledDataset):
            longest, texts = data.longest_text or learner.context, len(data.prepared.train)
            kind = kind_from_scratch(config) if base is None else base.model.kind
            head = head_facts(config.head, kind, learner.isolate, longest, texts)
            facts = {**with_known(facts, known or {}), "columns": data.columns_read, "head": head}
        plan = autoconfig(config, machine, learner, data, distributed, {**facts, **asked}, spent)
        if first:
            _tell_of_vocabulary(config, plan)
            _tell_of_preparation(config, plan, spent)
        return cls(
            config, home, run, device, distributed, data, task, plan, base, machine, began=began, preparation=spent
        )

    @classmethod
    def restore(
        cls,
        run: RunFolder,
        *,
        micro_batch_size: int | None = None,
        record: bool = True,
        config: TrainConfig | None = None,
    ) -> TrainingJob:
        """Return the job of a run that was stopped, at its last checkpoint.

        Args:
            run: The folder of the run.
            micro_batch_size: Sequences of a micro-batch; None keeps the number of the run.
            record: Whether this process keeps the record of the run.
            config: The request; None for that of the folder.

        Raises:
            InputError: If the prepared data of the run are gone.
            CorruptFile: If there are checkpoints and none of them is whole.
        """
        config = request_of(run) if config is None else config
        device = choose_device(config.machine.device)
        distributed = join_ranks(device)
        plan = Plan.from_json(run.plan, str(run.path / "plan.json"))
        if device.type != plan.device:
            log(
                f"the run was planned for {plan.device} and continues on {device.type}; from here on its results "
                "differ in the last bits"
            )
        use_threads(plan.threads)
        folder = data_folder(config, run.path)
        if not folder.exists():
            raise InputError(f"the text of the run is gone: {folder}", "bring the folder back, or train anew")
        found = checkpoint_store(config, run).latest()
        if found is not None:
            micro_batch_size = micro_batch_size or found.state["micro_batch_size"]
        if micro_batch_size:
            share = plan.global_batch_size // distributed.world_size
            fitting = next(rows for rows in range(min(micro_batch_size, share), 0, -1) if share % rows == 0)
            plan = replace(plan, micro_batch_size=fitting)
        task, data = find_task(plan.task), open_dataset(folder)
        kept = run if record and distributed.rank == 0 else None
        return cls(config, run.path, kept, device, distributed, data, task, plan, checkpoint=found)

    def build(self) -> None:
        """Make the model, the batches, the updates and the trainer, at the first step."""
        plan, run = self.plan, self.run
        if self.base is not None and self.distributed.rank == 0:
            self.model = self.base.model  # the base model is read once: to be trained
        else:
            self.model = initial_model(plan, self.home)
        mistaken = {id(weight) for weight in self.model.parameters() if not weight.requires_grad}
        finish_model(self.model, plan)
        self.frozen = frozenset(
            name
            for name, weight in self.model.named_parameters()
            if not weight.requires_grad and id(weight) not in mistaken
        )
        objective = with_z_loss(self.task.objective(plan, self.model, self.dataset), plan.z_loss)
        objective = with_techniques(self.config.technique, objective, self.model, self.dataset)
        batches = BatchSource(
            self.dataset.source(plan),
            objective,
            global_batch_size=plan.global_batch_size,
            micro_batch_size=plan.micro_batch_size,
            steps=plan.steps,
            seed=plan.seed,
            distributed=self.distributed,
            pin=self.device.type == "cuda",
        )
        self.trainer = Trainer(
            self.model,
            objective,
            batches,
            optimizer=plan.optimizer,
            schedule=plan.schedule,
            precision=plan.precision,
            device=self.device,
            steps=plan.steps,
            report=reporter(run),
        )
        self.advisor = Advisor(self.config, plan, run, log if run is None else run.log)
        record = anomaly_recorder(run, self.dataset, self.advisor)
        self.trainer.updates = update_chain(self.config, plan, self.trainer, record, run)
        if plan.compile:
            compile_step(self.trainer)
        self.validation = self._make_validation()

    def check(self) -> None:
        """Run the short form of the checks before the first step, and write `checks.json`.

        Raises:
            CheckFailed: If a check failed.
        """
        report = quick_checks(check_context(self, quick=True), self.plan.budget_seconds).with_results(
            label_checks(self, quick=True)
        )
        write_json(self.home / CHECKS, report.to_json())
        reporter(self.run)(report.summary())
        for result in report.results:
            if result.verdict == "warn":
                log(f"warning: {result.name}: {result.measured} (expected: {result.expected}); {result.remedy}")
        report.raise_if_failed(str(self.home / CHECKS))

    def warm_start(self) -> None:
        """Start from n-gram counts, or with a head that was fitted, where the plan says so; of a base model, measure
        and record the validation loss."""
        fit_head(self)
        measure_surgery(self)
        if self.base is not None and self.run is not None:
            self._measure_base(self.run)
        self.plan = warm_start(self.trainer, self.plan, self.dataset)

    def _validate(self) -> dict[str, float] | None:
        """Return what is measured on the validation rows at the present step; None without validation."""
        return None if self.validation is None else self.validation.of_trainer(self.trainer)

    def _measure_base(self, run: RunFolder) -> None:
        validation, measured = self.validation, self._validate()
        if validation is None or measured is None:
            return
        record = validation.record(0, 0, measured)
        run.metrics.append(record)
        parts = [f"validation loss {measured['loss']:.4f}"]
        if "perplexity" in record:
            parts.append(f"perplexity {record['perplexity']:.4g}")
        if validation.headline in record:
            parts.append(f"{record[validation.headline]:.4f} {validation.headline.replace('_', ' ')}")
        log(f"before the first step: {', '.join(parts)}")

    def measure_untrained(self) -> None:
        """Measure the model as it came, where the task compares the trained model with it."""
        if self.run is not None and self.plan.validation_rows:
            with self.trainer.eval_mode():
                self.task.before_training(self.trained())

    def fit_to_budget(self) -> None:
        """Take and time the first steps, and set the length of the run so that all of it fits the time budget.

        The steps stay part of the run (`timed`) where a longer or shorter run would have started with the same steps.
        Nothing is done for a run without a time budget.
        """
        if self.plan.budget_seconds is None:
            return
        seconds, kept = probe_seconds(self.plan, self.config, self.distributed)
        self.trainer.deadline = Deadline(self.began + (1.0 - EVALUATION_SHARE) * self.plan.budget_seconds)
        guess = plan_for_timing(self.plan, self.config) if kept else self.plan
        self.set_plan(guess)
        asked = self.config.technique
        with Waiting("taking and timing the first steps"):
            timed = time_steps(self.trainer, seconds).slower(cost_of_steps(asked) / cost_of_first_steps(asked))
        if is_compiled(self.trainer):
            self._validate()  # compiles the forward pass on its own, before the time that is left is reckoned
        plan = replace(guess, compile=is_compiled(self.trainer))
        spent = time.monotonic() - self.began
        plan, kept = length_by_speed(plan, self.config, self.dataset, timed, spent, kept=kept)
        if not kept:
            timed.take_back()
            if self.run is not None:
                self.run.stability.keep(lambda _: False)  # what was recorded of these steps
        self.timed = timed.for_good() if kept else None
        self.set_plan(replace(plan, micro_batch_size=self.trainer.batches.micro_batch_size))

    def set_plan(self, plan: Plan) -> None:
        """Take a plan whose length was fixed after the trainer was built."""
        self.plan = plan
        self.trainer.set_length(plan.steps)
        self.trainer.schedule = plan.schedule
        for update in self.trainer.updates:
            if isinstance(update, SnapshotAverage):
                update.begin = first_snapshot(self.config, plan)
            if isinstance(update, Stability):
                update.every = stability_every(self.config, plan.steps)
        self.advisor.plan = plan
        self.validation = self._make_validation()

    def fit(self) -> None:
        """Train from the first step, or from the checkpoint, to the last step.

        Raises:
            Interrupted: After a signal to stop, when a checkpoint is written.
            Paused: When an observer asks to stop; a checkpoint is written, too.
            Diverged: If the loss stays not finite, by the policy for anomalies.
        """
        trainer, run, plan, config = self.trainer, self.run, self.plan, self.config
        comparable = self.task.comparable_losses
        if not comparable and config.early_stopping is not None:
            raise InputError(
                f"--early-stopping compares validation losses, and those of {plan.objective} at different steps are of "
                "different questions",
                "leave it out",
            )
        if self.checkpoint is not None:
            trainer.restore(self.checkpoint.load, self.checkpoint.state)
        watch = OverfittingWatch(run, plan, self._patience()) if run is not None and comparable else None
        callbacks = self._callbacks(watch)
        budget = self.time_budget
        loop = Loop(
            trainer,
            run,
            checkpoint_store(config, run) if run is not None else None,
            Intervals(
                plan.steps,
                plan.validate_every,
                plan.checkpoint_every,
                log_every=max(1, -(-plan.steps // _MOST_LOGGED)),
            ),
            self._units(),
            self.validation,
            callbacks,
            with_early_stopping(watch, None if budget is None else budget.steps_after, plan),
        )
        callbacks.on("start", {"config": to_json(config), "step": trainer.step})
        with _recorded_end(self):
            if self.timed is not None:
                loop.record(self.timed.reports, self.timed.probe.tokens_per_second)
            loop.train()
        callbacks.on("end", {"step": trainer.step, "status": "done"})
        self.waited = loop.waited
        if budget is not None:
            self.plan = budget.plan

    def finish(self) -> dict[str, Any]:
        """Write and measure the trained model, and write the result of the run.

        Returns:
            The final figures, which are also in `result.json`; nothing on processes that keep no record.
        """
        return {} if self.run is None else finish(self)

    def close(self) -> None:
        """Stop the thread that prepares batches."""
        self.trainer.batches.close()

    def _make_validation(self) -> Validation | None:
        plan = self.plan
        if not plan.validation_rows:
            return None
        found = self.dataset.validation_set(plan)
        metrics = partial(self.task.metrics, bytes_per_target=found.bytes_per_target)
        return Validation(found.source, plan.validation_rows, metrics, self.task.headline_of(plan.objective))

    def _units(self) -> Units:
        data, task = self.dataset, self.task

        def metrics(loss: float) -> dict[str, float]:
            return task.metrics(
                loss, {}, bytes_per_target=data.bytes_per_target, words_per_target=data.words_per_target
            )

        peak = self.plan.probe.get("peak_flops", 0.0) * self.distributed.world_size
        cost = self.trainer.gradients_per_step * passes_of(self.config.technique)
        return Units(metrics, self.plan.flops_per_token * cost, peak, task.learns)

    def _patience(self) -> int | None:
        """Return the patience of early stopping, which is refused for several processes: they could stop apart."""
        if self.config.early_stopping is not None and self.distributed.world_size > 1:
            raise InputError("--early-stopping is for one process", "leave it out; the best checkpoint is kept anyway")
        return self.config.early_stopping

    def _callbacks(self, watch: OverfittingWatch | None) -> Callbacks:
        """Return trackers, forecasts and the overfitting watch; none on processes without a record."""
        if self.run is None:
            return Callbacks(report=log)
        trackers = [make_tracker(name, self.run.path) for name in self.config.track]
        watches: list[Any] = [] if watch is None else [watch]
        if not self.config.anomalies.spikes:  # the guard logs those that it refuses
            watches.append(SpikeWatch(self.run, self.advisor))
        forecasts = live_forecasts(self.run, self.plan, self.dataset)
        return Callbacks([*trackers, *forecasts, *watches, *self.observers], report=self.run.log)


@contextmanager
def _recorded_end(job: TrainingJob) -> Iterator[None]:
    """Log why training stopped, where it did, and stop the thread that prepares batches."""
    try:
        yield
    except BaseException as error:
        if job.run is not None:
            job.run.log(f"stopped: {type(error).__name__}: {error}")
        raise
    finally:
        job.close()


def _tell_of_vocabulary(config: TrainConfig, plan: Plan) -> None:
    """Say so where the model has another vocabulary than the preset whose name it bears."""
    said = named_vocabulary(config.model.preset)
    if plan.base is not None or plan.model is None or said in (None, plan.model.vocabulary):
        return
    if config.text.vocabulary:
        reason = "as asked"
    else:
        taken = config.text.tokenizer is not None or is_prepared(config.data)
        reason = "that of the tokenizer" if taken else "the text gives no more"
    log(
        f"note: {config.model.preset} has a vocabulary of {said:,} tokens, and this model one of "
        f"{plan.model.vocabulary:,} ({reason}): it has {show_count(plan.parameters)} parameters, and is not the model "
        "of that name"
    )


def _tell_of_preparation(config: TrainConfig, plan: Plan, spent: float) -> None:
    """Say how long the command will take where the preparation left less than half of the time budget."""
    budget = given_seconds(config)
    if budget is None or plan.budget_seconds is None or plan.budget_seconds <= budget:
        return
    again = "" if is_prepared(config.data) else "; `lavra prepare` reads and tokenises a text once for many runs"
    log(
        f"the preparation took {show_duration(spent)} of the budget of {show_duration(budget)}: training gets half of "
        f"the budget all the same, and the command takes about {show_duration(plan.budget_seconds)} in all{again}"
    )


def _prepared(
    config: TrainConfig, home: Path, machine: Machine, described: DataDescription
) -> tuple[Base | None, Task, str, Dataset]:
    """Open the base model and prepare the data, as the first process: base, task, objective, data set."""
    base = opened_base(config, machine.device, home, described)
    task, objective = _task_of(config, base, described)
    data = training_dataset(config, home, machine, base, task)
    if base is None:
        demand_text(data.bytes)
    else:
        certify_base(home, base, data.first_ids())
    write_text_record(home, data_folder(config, home))
    return base, task, objective, data


def _read_prepared(
    config: TrainConfig, home: Path, device: torch.device, described: DataDescription
) -> tuple[Base | None, Task, str, Dataset]:
    """Read what the first process prepared: base, task, objective, data set."""
    base = None if config.base is None else read_base(config, device, described)
    return base, *_task_of(config, base, described), open_dataset(data_folder(config, home))


def _task_of(config: TrainConfig, base: Base | None, described: DataDescription) -> tuple[Task, str]:
    if base is not None:
        return base.task, base.objective
    return choose_task(config.task, config.objective.name, kind_from_scratch(config), described, FROM_SCRATCH)


def checkpoint_store(config: TrainConfig, run: RunFolder) -> CheckpointStore:
    """Return the checkpoints of a run.

    Args:
        config: The request, which says how many checkpoints are kept.
        run: The folder of the run.
    """
    return CheckpointStore(run.checkpoints, config.keep_checkpoints, on_warning=run.log)


def plan_writer(run: RunFolder) -> Callable[[Plan], None]:
    """Return the function that logs and writes a plan whose length was set again while the run goes on."""

    def write(plan: Plan) -> None:
        run.log(f"by the speed so far, the run has {counted(plan.steps, 'step')}, not {run.plan['steps']:,}")
        run.write_plan(plan.to_json())

    return write

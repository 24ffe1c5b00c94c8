"""A trial of a sweep: an ordinary run that is trained up to a step, measured there, and may go on later."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lavra.config.training import TrainConfig
from lavra.core.configuration import to_toml
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.errors import InputError, LavraError, Paused
from lavra.core.machine import give_back_freed_memory
from lavra.models.native.attention import trust_again
from lavra.reports.formatting import plain
from lavra.reports.labels.headline import headline_of
from lavra.reports.run_page import page_at_the_end
from lavra.tasks.base import Measured
from lavra.training.batches import DistributedInfo
from lavra.training.callbacks import Callback, Request
from lavra.training.devices import choose_device
from lavra.workflows.training.forecast import live_forecasts
from lavra.workflows.training.job import TrainingJob
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.resume import make_ready
from lavra.workflows.training.train import inputs_of, prepared_job
from lavra.workflows.tuning.halving import rung_step


@dataclass(frozen=True)
class Outcome:
    """What a trial has reached.

    Attributes:
        step: Number of steps done.
        steps: Number of steps of the whole run.
        name: Name of the figure that was measured.
        measure: The figure: `value`, and `low` and `high` where it has an interval.
        loss: The loss at the same step, which decides between equal figures; None where it is not known.
        forecast: Forecast of the figure at the end of the run; None where there is none.
        seconds: Seconds that this part of the trial took.
        parameters: Number of parameters of the model.
    """

    step: int
    steps: int
    name: str
    measure: Mapping[str, float | None]
    loss: float | None
    forecast: float | None
    seconds: float
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return asdict(self)


class PauseAt:
    """A callback that stops a run at a step.

    Args:
        step: The step. A run that does not log every step stops at the first logged one from there on.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Ask to stop after the step; other events are ignored."""
        return Request(stop=True, reason="paused") if event == "step" and info["step"] >= self.step else None


class _Watch:
    """A callback that says after each step which share of the run is done."""

    def __init__(self, steps: int, progress: Callable[[float], None]) -> None:
        self.steps, self.progress = steps, progress

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        if event == "step":
            self.progress(info["step"] / self.steps)
        return None


def advance(
    config: TrainConfig,
    share: float,
    *,
    measure: str | None = None,
    evaluated: int = 1 << 62,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Train a trial up to a share of its run, and measure it there; what was trained before is not trained again.

    Args:
        config: The request, which names the folder of the run as `out`.
        share: The share of the run, from 0 to 1; at 1 the run is finished like any other.
        measure: Name of the figure; the first one of the task if None.
        evaluated: Most tokens of validation data on which text is measured.
        progress: Receives after each step the share of the run that is done.

    Returns:
        What the trial has reached.

    Raises:
        InputError: If the request is wrong, or there is no such figure.
        Interrupted: After a signal to stop; a checkpoint is written.
        Diverged: If the loss stays not finite, by the policy for anomalies.
    """
    began = time.monotonic()
    trust_again()  # what one trial found wrong must not make another one compute in another way
    refuse_impossible(config)
    assert config.out is not None
    run = RunFolder(Path(config.out))
    whole = is_run(run.path)
    if whole and run.status == "finished":
        return _of_result(run, measure, began)
    new = not (whole and run.plan)
    if new:
        run = RunFolder.create(run.path, to_toml(config), force=True, inputs=inputs_of(config))
    try:
        with run.training(), page_at_the_end(run):
            return _advance(config, run, share, measure, evaluated, progress, began, new=new)
    finally:
        gc.collect()
        give_back_freed_memory()


def _advance(
    config: TrainConfig,
    run: RunFolder,
    share: float,
    measure: str | None,
    evaluated: int,
    progress: Callable[[float], None] | None,
    began: float,
    *,
    new: bool,
) -> Outcome:
    if new:
        record_machine(run.path, choose_device(config.machine.device), 0)
        job = prepared_job(config, run, DistributedInfo(), began)
    else:
        job = TrainingJob.restore(run, config=config)
        make_ready(job, run)
    until, steps = rung_step(share, job.plan.steps), job.plan.steps
    watch: list[Callback] = [] if progress is None else [_Watch(steps, progress)]
    job.observers = [*watch, *([PauseAt(until)] if until < steps else [])]
    job.measure = lambda: _measured(job, evaluated, run.path)
    if job.checkpoint is not None and until <= job.checkpoint.step < steps:  # paused there, and not measured yet
        job.trainer.restore(job.checkpoint.load, job.checkpoint.state)
        job.close()
        return _of_pause(job, measure, evaluated, began)
    try:
        job.fit()
    except Paused:
        return _of_pause(job, measure, evaluated, began)
    job.finish()
    return _of_result(run, measure, began)


def _measured(job: TrainingJob, evaluated: int, folder: Path | None) -> Measured:
    """Return the figures of the model as it is, by the task's own measurement of at most so many tokens."""
    trained = job.trained()
    plan = replace(trained.plan, evaluation_tokens=min(evaluated, trained.plan.evaluation_tokens))
    return job.task.evaluate(
        replace(trained, plan=plan, folder=folder, run=None if folder is None else trained.run, deadline=None)
    )


def _of_pause(job: TrainingJob, measure: str | None, evaluated: int, began: float) -> Outcome:
    job.undo_compilation()  # evaluation uses many shapes, and each would be compiled anew
    with job.trainer.eval_mode():
        figures = _measured(job, evaluated, None).figures
    trainer, plan = job.trainer, job.plan
    name = measure_of(figures, measure)
    info = {"step": trainer.step, "tokens": trainer.targets, "bits_per_byte": plain(figures.get("bits_per_byte"))}
    laws = live_forecasts(job.run, plan, job.dataset) if name == "bits_per_byte" else []
    ahead = laws[0].at(info, plan.steps) if laws else None
    return Outcome(
        trainer.step,
        plan.steps,
        name,
        _estimate(figures[name]),
        _number(figures.get("loss")),
        None if ahead is None else ahead.value,
        time.monotonic() - began,
        plan.parameters,
    )


def _of_result(run: RunFolder, measure: str | None, began: float) -> Outcome:
    result = run.result
    name = measure_of(result, measure)
    step = int(result["step"])
    return Outcome(
        step,
        step,
        name,
        _estimate(result[name]),
        _number(result.get("loss")),
        _number(result[name]),
        time.monotonic() - began,
        int(result["parameters"]),
    )


def measure_of(figures: Mapping[str, Any], asked: str | None) -> str:
    """Return the name of the figure that chooses.

    Args:
        figures: The figures of a trial.
        asked: The name in the request; None for the first figure of the task.

    Raises:
        InputError: If there is no such figure.
    """
    known = [name for name, value in figures.items() if isinstance(value, Mapping) and "value" in value]
    if asked is not None:
        if asked not in known:
            raise InputError(f"--measure {asked} is no figure of this task", f"choose one of {', '.join(known)}")
        return asked
    if "bits_per_byte" in figures:
        return "bits_per_byte"
    found = headline_of(figures)
    return "loss" if found is None else found[0]


def _estimate(figure: Any) -> dict[str, float | None]:
    value = _number(figure)
    if value is None:
        raise LavraError("its figure is not a number", "lower the learning rate")
    ends = figure if isinstance(figure, Mapping) else {}
    return {"value": value, "low": _number(ends.get("low")), "high": _number(ends.get("high"))}


def _number(figure: Any) -> float | None:
    value = plain(figure)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


Advance = Callable[..., Outcome]
"""What trains a trial: `advance`, or what stands for it in a test."""

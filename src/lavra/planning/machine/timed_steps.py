"""A few real training steps, timed: the speed of this machine with this model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lavra.core.progress import Waiting, log
from lavra.planning.machine.dry_run import DryRun
from lavra.training.acceleration.compiling import compile_step
from lavra.training.devices import synchronize
from lavra.training.distributed import max_over_ranks
from lavra.training.trainer import StepReport, Trainer

_PATIENCE = 3.0
"""Seconds after which fewer timed steps than the smallest number are enough."""


@dataclass(frozen=True)
class Probe:
    """Speed that timed steps measured.

    Attributes:
        first_step_seconds: Seconds of the first step, including compilation.
        step_seconds: Mean seconds of a later step, where each step counts as at most twice the median (a winsorized
            mean). A run has slow steps too, so the median alone would be too optimistic.
        steps: Number of steps that were timed, without the first.
        tokens_per_second: Tokens trained on per second.
    """

    first_step_seconds: float
    step_seconds: float
    steps: int
    tokens_per_second: float


@dataclass(frozen=True)
class TimedSteps:
    """Timed first steps of a run, whose result may be kept or undone.

    Attributes:
        probe: Speed that they measured.
        reports: Report of every step, including the first.
        take_back: Function that restores the state of the trainer from before these steps.
    """

    probe: Probe
    reports: tuple[StepReport, ...]
    take_back: Callable[[], None]

    def slower(self, factor: float) -> TimedSteps:
        """Return the same steps with the speed of steps that take `factor` times as long, as later ones may."""
        probe = self.probe
        seconds, speed = probe.step_seconds * factor, probe.tokens_per_second / factor
        return replace(self, probe=replace(probe, step_seconds=seconds, tokens_per_second=speed))

    def for_good(self) -> TimedSteps:
        """Return the same steps without the state from before them, whose memory is freed."""
        return replace(self, take_back=_refuse)


def _refuse() -> None:
    raise RuntimeError("these steps were taken for good")


def time_steps(trainer: Trainer, seconds: float, least: int = 3) -> TimedSteps:
    """Take a first training step, time further ones, and return what they measured.

    The trainer keeps the result of the steps unless `take_back` of the returned value is called. An error in the first
    step, such as exhausted memory, restores the trainer before it is raised.

    Args:
        trainer: Trainer at its first step.
        seconds: Approximate time for the timed steps, without the first.
        least: Smallest number of timed steps; fewer are enough where these take seconds each.
    """
    before = {
        group: {name: tensor.clone() for name, tensor in tensors.items()}
        for group, tensors in trainer.tensors().items()
    }
    state, distributed = trainer.state(), trainer.batches.distributed
    reports: list[StepReport] = []

    def step() -> float:
        start = time.perf_counter()
        reports.append(trainer.run_step())
        synchronize(trainer.device)
        return time.perf_counter() - start

    def take_back() -> None:
        trainer.restore(before.__getitem__, state)

    try:
        first = step()
    except Exception:
        take_back()  # the trainer may have counted the step already
        raise
    times: list[float] = []
    # All processes must stop after the same step: one that went on would wait forever for the gradients of the others.
    spent = 0.0
    while spent < seconds or len(times) < least:
        if max_over_ranks(_is_late(trainer, times[-1] if times else 0.0), distributed):
            break
        times.append(step())
        spent = max_over_ranks(sum(times), distributed)
        if spent >= max(seconds, _PATIENCE):
            break  # a step of a large model takes long enough to be timed well by itself
    times = times or [first]
    most = 2.0 * statistics.median(times)
    mean = statistics.fmean(min(seconds, most) for seconds in times)
    probe = Probe(first, mean, len(times), trainer.targets / len(reports) / mean)
    return TimedSteps(probe, tuple(reports), take_back)


def _is_late(trainer: Trainer, seconds: float) -> bool:
    """Return whether a further step of some seconds would end after the time of the whole run."""
    return trainer.deadline is not None and trainer.deadline.seconds_left < seconds


def probe_steps(trainer: Trainer, seconds: float, least: int = 3) -> Probe:
    """Time training steps as `time_steps` does, restore the trainer, and return the measured speed.

    Args:
        trainer: Trainer at its first step.
        seconds: Approximate time for the timed steps, without the first.
        least: Smallest number of timed steps; see `time_steps`.
    """
    timed = time_steps(trainer, seconds, least)
    timed.take_back()
    return timed.probe


def probe_dry_run(
    dry_run: DryRun, micro_batch_size: int, device: torch.device, seconds: float, *, compile: bool
) -> Probe:
    """Time real training steps of a model with random weights on random tokens, and return the measured speed.

    Args:
        dry_run: Configuration of the training step.
        micro_batch_size: Number of sequences of a micro-batch.
        device: Device that holds the model and computes.
        seconds: Approximate time for the timed steps, without the first.
        compile: Whether the blocks of the model are compiled, as the run will do.
    """
    trainer = dry_run.trainer(micro_batch_size, device=device)
    if compile:
        log("compiling the model, as the run will do")
        compile_step(trainer)
    with Waiting("timing steps of this model"):
        return probe_steps(trainer, seconds)

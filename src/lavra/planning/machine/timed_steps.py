"""A few real steps, timed: what this machine does with this model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lavra.core.progress import say
from lavra.planning.machine.dry_run import Rehearsal
from lavra.training.acceleration.compiling import compile_step, should_compile
from lavra.training.devices import synchronize
from lavra.training.distributed import max_over_ranks
from lavra.training.trainer import StepReport, Trainer


@dataclass(frozen=True)
class Probe:
    """What a probe measured.

    Attributes:
        first_step_seconds: of the first step, compilation included.
        step_seconds: of a step after that: the mean, in which a step counts for at most twice the median. A run meets
            the slow steps too, so a median alone would promise too much.
        steps: that were timed.
        tokens_per_second: learned from.
    """

    first_step_seconds: float
    step_seconds: float
    steps: int
    tokens_per_second: float


@dataclass(frozen=True)
class Trial:
    """Real first steps of a run, which may stay taken.

    Attributes:
        probe: what they told.
        reports: of every step.
        take_back: puts the trainer back to where it was before them.
    """

    probe: Probe
    reports: tuple[StepReport, ...]
    take_back: Callable[[], None]


def try_steps(trainer: Trainer, seconds: float, least: int = 3) -> Trial:
    """Run real training steps for about `seconds` after a first one.

    Args:
        trainer: at its first step.
        seconds: to spend after the first step.
        least: steps that are timed in any case.
    """
    before = {
        group: {name: tensor.clone() for name, tensor in tensors.items()}
        for group, tensors in trainer.tensors().items()
    }
    state, ranks = trainer.state(), trainer.batches.ranks
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
        take_back()  # it was counted already
        raise
    times: list[float] = []
    # All ranks stop after the same step: those that went on would wait for the others forever.
    while len(times) < least or max_over_ranks(sum(times), ranks) < seconds:
        times.append(step())
    most = 2.0 * statistics.median(times)
    mean = statistics.fmean(min(seconds, most) for seconds in times)
    probe = Probe(first, mean, len(times), trainer.targets / len(reports) / mean)
    return Trial(probe, tuple(reports), take_back)


def probe_steps(trainer: Trainer, seconds: float, least: int = 3) -> Probe:
    """Run real training steps as `try_steps` does, and put the trainer back to where it was."""
    trial = try_steps(trainer, seconds, least)
    trial.take_back()
    return trial.probe


def probe_rehearsal(
    rehearsal: Rehearsal, micro_rows: int, device: torch.device, seconds: float, expected: float
) -> Probe:
    """Time real steps of a model with drawn weights on random tokens, as a run of that length would do them.

    Args:
        rehearsal: model, precision, optimiser, edits.
        micro_rows: rows of a micro-batch.
        device: where.
        seconds: to spend on timed steps.
        expected: seconds of the run, by which it is decided whether its blocks are compiled.
    """
    trainer = rehearsal.trainer(micro_rows, device=device)
    if should_compile("auto", device, expected):
        say("compiling, as the run will")
        compile_step(trainer)
    return probe_steps(trainer, seconds)

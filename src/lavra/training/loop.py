"""The training loop: it takes steps, validates, saves checkpoints, logs metrics and reacts to signals.

What is trained, and on what, is decided elsewhere: the loop only calls the `Trainer`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import Interrupted, LavraError, Paused
from lavra.core.progress import Progress, log
from lavra.core.units import show_count
from lavra.training.callbacks import Callbacks, Request
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.distributed import max_over_ranks
from lavra.training.signals import StopRequest
from lavra.training.trainer import StepReport, Trainer
from lavra.training.updates.anomalies import RollBack
from lavra.training.validation import Validation


@dataclass(frozen=True)
class Intervals:
    """Intervals of the training loop.

    Attributes:
        steps: Number of optimiser steps of the run.
        validate_every: Steps between two validations; the last step is always validated.
        checkpoint_every: Steps between two checkpoints; the last step is always saved.
        checkpoint_seconds: A checkpoint is also saved when the last one is older than this many seconds.
        log_every: Steps between two records of `metrics.jsonl`.

    Examples:
        >>> Intervals(steps=100, validate_every=20, checkpoint_every=50).checkpoint_seconds
        600.0
    """

    steps: int
    validate_every: int
    checkpoint_every: int
    checkpoint_seconds: float = 600.0
    log_every: int = 1


@dataclass(frozen=True)
class Units:
    """Factors that convert the metrics of the loop into units that compare between models.

    Attributes:
        metrics: Function from the mean loss of a step in nats to the metrics that stand beside it in the record.
        flops_per_token: Floating-point operations per token of a training step, forward and backward pass.
        peak_flops: Peak speed of this machine in matrix products, in FLOP/s; 0 if it was not measured.
        noun: What the targets are, in the plural, for the line of progress.
    """

    metrics: Callable[[float], Mapping[str, float]]
    flops_per_token: float
    peak_flops: float = 0.0
    noun: str = "tokens"


class Loop:
    """Runs a trainer to its last step, and keeps the record in a run folder.

    Args:
        trainer: Trainer, positioned at the step to continue from.
        run: Run folder that receives metrics and log; the caller holds its lock. None in processes other than the
            first of a distributed run, which keep no record.
        checkpoints: Store of the checkpoints; None in these processes.
        intervals: Intervals between validations, checkpoints and records of the metrics.
        units: Factors that convert the metrics.
        validation: Sample of the validation data; None for no validation.
        callbacks: Observers that receive the events.
        length: Function that is given the number of steps done and returns the number of steps of the run, which a time
            budget may change. It is called after each step. None keeps the length fixed.

    Attributes:
        validation_loss: Last validation loss in nats per token; None before the first validation.
        waited: Seconds that training was held up by writing checkpoints.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: RunFolder | None,
        checkpoints: CheckpointStore | None,
        intervals: Intervals,
        units: Units,
        validation: Validation | None,
        callbacks: Callbacks,
        length: Callable[[int], int] | None = None,
    ) -> None:
        self.length = length
        self.trainer, self.run, self.checkpoints = trainer, run, checkpoints
        self.intervals, self.units, self.validation, self.callbacks = intervals, units, validation, callbacks
        self.validation_loss: float | None = None
        self._shown: float | None = None
        self.waited = 0.0
        self._validated_at = -1
        self._speed = 0.0
        self._saved_at, self._saved_time = trainer.step, time.monotonic()
        self._recent: deque[tuple[float, float]] = deque([(time.monotonic(), trainer.targets)], maxlen=32)

    def train(self) -> None:
        """Train to the last step.

        Raises:
            Interrupted: after SIGINT or SIGTERM; everything is saved by then.
            Paused: when an observer asks to stop; everything is saved by then, too.
            Diverged: if training ends because of anomalies, see `AnomalyGuard`.
            LavraError: if a rollback is needed and impossible, or a checkpoint could not be written.
        """
        trainer = self.trainer
        with StopRequest() as stop, Progress("training", self.intervals.steps, "steps", every=10) as progress:
            progress.start_from(trainer.step)
            while trainer.step < self.intervals.steps:
                try:
                    report = trainer.run_step()
                except RollBack as request:
                    self._roll_back(request)
                    continue
                if self.length is not None:
                    self._set_length(self.length(report.step), progress)
                asked = self._look_up(report, progress)
                # A signal reaches the processes at different times; the maximum makes all stop after the same step.
                requested = int(max_over_ranks(stop.requested, trainer.batches.distributed))
                if requested or asked.stop:
                    self._stop(requested, asked)
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def record(self, reports: Sequence[StepReport], tokens_per_second: float) -> None:
        """Log steps that were taken before the loop, as timed steps whose result is kept.

        Args:
            reports: Reports of the first steps of the run, in order.
            tokens_per_second: Mean speed of these steps.
        """
        tokens = 0.0
        for report in reports:
            tokens += report.targets * report.applied
            if report.step % self.intervals.log_every == 0:
                self._log(report, tokens, tokens_per_second)

    def _set_length(self, steps: int, progress: Progress) -> None:
        if steps != self.intervals.steps:
            self.intervals = replace(self.intervals, steps=steps)
            self.trainer.set_length(steps)
            progress.total = steps

    def _look_up(self, report: StepReport, progress: Progress) -> Request:
        """Log, validate and save where it is due after a step, and return what the observers ask for."""
        intervals, last = self.intervals, report.step == self.intervals.steps
        now = time.monotonic()
        self._recent.append((now, self.trainer.targets))
        asked = Request()
        if report.step % intervals.log_every == 0 or last:
            asked |= self._log(report, self.trainer.targets, self.tokens_per_second)
        if self.validation and (report.step % intervals.validate_every == 0 or last or asked.evaluate):
            asked |= self._validate()
        due = report.step % intervals.checkpoint_every == 0 or now - self._saved_time >= intervals.checkpoint_seconds
        if last or due or asked.save:
            self._save(background=not last)
        progress.update(report.step, self._note(report))
        return asked

    def _log(self, report: StepReport, tokens: float, tokens_per_second: float) -> Request:
        units = self.units
        record: dict[str, Any] = {
            "step": report.step,
            "split": "train",
            "tokens": int(tokens),
            "loss": report.loss,
            **units.metrics(report.loss),
            "tokens_per_second": tokens_per_second,
            "gradient_norm": report.gradient_norm,
            "learning_rate": report.learning_rate,
            **report.metrics,
        }
        if not report.applied:
            record["skipped"] = True
        self._record(record)
        return self.callbacks.on("step", record)

    def _validate(self) -> Request:
        validation, trainer = self.validation, self.trainer
        assert validation is not None
        measured = validation.of_trainer(trainer)
        record = validation.record(trainer.step, trainer.targets, measured)
        self.validation_loss, self._validated_at = measured["loss"], trainer.step
        self._shown = record.get(validation.headline)
        self._record(record)
        self._recent.clear()  # the time of the validation must not count as training time
        self._recent.append((time.monotonic(), trainer.targets))
        return self.callbacks.on("validation", record)

    def _record(self, record: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.metrics.append(record)

    def _save(self, *, background: bool) -> None:
        trainer = self.trainer
        if self.checkpoints is None or self._saved_at == trainer.step:
            return
        start = time.monotonic()
        score = self.validation_loss if self._validated_at == trainer.step else None
        self.checkpoints.save(trainer.step, trainer.tensors(), trainer.state(), background=background, score=score)
        self._saved_at, self._saved_time = trainer.step, time.monotonic()
        self.waited += self._saved_time - start
        self.callbacks.on("checkpoint", {"step": trainer.step, "path": str(self.checkpoints.folder)})

    def _stop(self, signal_number: int, asked: Request) -> None:
        """Save a checkpoint and raise `Interrupted` or `Paused`, unless the last step is done anyway."""
        if self.trainer.step >= self.intervals.steps:
            return
        if self.checkpoints is not None:
            self.checkpoints.wait()
            if self.checkpoints.written != self.trainer.step:  # a full disk may have prevented the one of this step
                self._saved_at = -1
                self._save(background=False)
        place = f"stopped after step {self.trainer.step} of {self.intervals.steps}; everything is saved"
        self.callbacks.on("end", {"step": self.trainer.step, "status": "interrupted"})
        kind = Interrupted if signal_number else Paused
        if self.run is None:
            raise kind(place, signal_number=signal_number or 2)
        self.run.log(place + (f" ({asked.reason})" if asked.reason else ""))
        raise kind(place, f"continue with: lavra resume {self.run.path}", signal_number=signal_number or 2)

    def _roll_back(self, request: RollBack) -> None:
        """Restore the last checkpoint, and skip the anomalous step from now on."""
        trainer = self.trainer
        if self.checkpoints is None or self.run is None or trainer.batches.distributed.world_size > 1:
            raise LavraError(
                f"step {request.step + 1}: {request.reason}; a distributed run cannot roll back",
                "use --anomalies.policy skip, or resume the run, which starts at the last checkpoint",
            ) from request
        self.checkpoints.wait()
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            raise LavraError(
                f"step {request.step + 1}: {request.reason}, and there is no checkpoint to roll back to yet",
                "use --anomalies.policy skip, or more frequent checkpoints (--checkpoint-every)",
            ) from request
        trainer.excluded.add(request.step)
        trainer.restore(checkpoint.load, checkpoint.state)
        self.run.rewind(trainer.step)
        self._saved_at = trainer.step
        self._recent.clear()  # the token count was restored, too, so differences across it are meaningless
        self._recent.append((time.monotonic(), trainer.targets))
        text = f"rolled back to step {trainer.step}; step {request.step + 1} will be skipped ({request.reason})"
        self.run.log(text)
        log(text)

    @property
    def tokens_per_second(self) -> float:
        """Training speed in tokens per second, over up to 31 of the last steps without validations."""
        (first, before), (last, now) = self._recent[0], self._recent[-1]
        if last > first and len(self._recent) > 1:  # right after a validation, the speed before it is still the best
            self._speed = (now - before) / (last - first)
        return self._speed

    def _note(self, report: StepReport) -> str:
        speed = self.tokens_per_second
        noun = self.units.noun
        parts = [f"{show_count(self.trainer.targets)} {noun}", f"loss {report.loss:.3f}"]
        if self.validation is not None and self._shown is not None:
            parts.append(f"validation {self._shown:.3f} {self.validation.headline.replace('_', ' ')}")
        parts.append(f"{show_count(speed)} {noun}/s")
        if self.units.peak_flops:
            parts.append(f"{speed * self.units.flops_per_token / self.units.peak_flops:.0%} of peak")
        return "  ".join(parts)

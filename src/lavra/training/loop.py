"""The loop of a run: steps, validation, checkpoints, metrics, signals. What is learned is decided elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import Interrupted, LavraError
from lavra.core.progress import Progress, say
from lavra.core.units import perplexity_of, show_count
from lavra.training.callbacks import Observers, Request
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.distributed import max_over_ranks
from lavra.training.signals import StopRequest
from lavra.training.trainer import StepReport, Trainer
from lavra.training.updates.anomalies import RollBack
from lavra.training.validation import Validation


@dataclass(frozen=True)
class Rhythm:
    """When the loop looks up from its steps.

    Attributes:
        steps: the length of the run.
        validate_every: steps between validations; the last step is always validated.
        checkpoint_every: steps between checkpoints; the last step is always saved.
        checkpoint_seconds: a checkpoint is also due when the last one is older than this.
        log_every: steps between lines of `metrics.jsonl`.
    """

    steps: int
    validate_every: int
    checkpoint_every: int
    checkpoint_seconds: float = 600.0
    log_every: int = 1


@dataclass(frozen=True)
class Units:
    """What turns the loop's numbers into comparable ones.

    Attributes:
        bytes_per_token: of the training text.
        words_per_token: of the training text.
        flops_per_token: of a training step, forward and backward.
        peak_flops: of this machine's matrix products per second; 0 when it was not measured.
    """

    bytes_per_token: float
    words_per_token: float
    flops_per_token: float
    peak_flops: float = 0.0


class Loop:
    """Runs a trainer to its last step, keeping the record in a run folder.

    Args:
        trainer: positioned at the step to go on from.
        run: the record; its lock is held by the caller. None on ranks other than the first, which keep no record.
        checkpoints: where the state is saved; None on those ranks.
        rhythm: when to validate, save and log.
        units: for the metrics.
        validation: held-out text; None for none.
        observers: who is told.
        length: is asked after each step how many the run has; None where that is fixed.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: RunFolder | None,
        checkpoints: CheckpointStore | None,
        rhythm: Rhythm,
        units: Units,
        validation: Validation | None,
        observers: Observers,
        length: Callable[[int], int] | None = None,
    ) -> None:
        self.length = length
        self.trainer, self.run, self.checkpoints = trainer, run, checkpoints
        self.rhythm, self.units, self.validation, self.observers = rhythm, units, validation, observers
        self.validation_loss: float | None = None
        self.waited = 0.0
        self._validated_at = -1
        self._speed = 0.0
        self._saved_at, self._saved_time = trainer.step, time.monotonic()
        self._recent: deque[tuple[float, float]] = deque([(time.monotonic(), trainer.targets)], maxlen=32)

    def train(self) -> None:
        """Run to the last step.

        Raises:
            Interrupted: after a signal, when everything is saved.
            Diverged: when the numbers are beyond repair.
        """
        trainer = self.trainer
        with StopRequest() as stop, Progress("training", self.rhythm.steps, "steps", every=10) as progress:
            progress.start_from(trainer.step)
            while trainer.step < self.rhythm.steps:
                try:
                    report = trainer.run_step()
                except RollBack as request:
                    self._roll_back(request)
                    continue
                if self.length is not None:
                    self._set_length(self.length(report.step), progress)
                asked = self._look_up(report, progress)
                # Every rank stops after the same step, although the signal reaches them at different times.
                requested = int(max_over_ranks(stop.requested, trainer.batches.ranks))
                if requested or asked.stop:
                    self._stop(requested, asked)
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def record(self, reports: Sequence[StepReport], tokens_per_second: float) -> None:
        """Log steps that were taken before the loop.

        Args:
            reports: of the first steps of the run.
            tokens_per_second: of all of them.
        """
        tokens = 0.0
        for report in reports:
            tokens += report.targets * report.applied
            if report.step % self.rhythm.log_every == 0:
                self._log(report, tokens, tokens_per_second)

    def _set_length(self, steps: int, progress: Progress) -> None:
        if steps != self.rhythm.steps:
            self.rhythm = replace(self.rhythm, steps=steps)
            self.trainer.set_length(steps)
            progress.total = steps

    def _look_up(self, report: StepReport, progress: Progress) -> Request:
        """Log, validate and save as the rhythm and the observers want it after one step."""
        rhythm, last = self.rhythm, report.step == self.rhythm.steps
        now = time.monotonic()
        self._recent.append((now, self.trainer.targets))
        asked = Request()
        if report.step % rhythm.log_every == 0 or last:
            asked |= self._log(report, self.trainer.targets, self.tokens_per_second)
        if self.validation and (report.step % rhythm.validate_every == 0 or last or asked.evaluate):
            asked |= self._validate()
        due = report.step % rhythm.checkpoint_every == 0 or now - self._saved_time >= rhythm.checkpoint_seconds
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
            "perplexity": perplexity_of(report.loss),
            "bits_per_byte": report.loss / math.log(2) / units.bytes_per_token,
            "bits_per_word": report.loss / math.log(2) / units.words_per_token,
            "tokens_per_second": tokens_per_second,
            "gradient_norm": report.gradient_norm,
            "learning_rate": report.learning_rate,
            **report.metrics,
        }
        if not report.applied:
            record["skipped"] = True
        self._record(record)
        return self.observers.on("step", record)

    def _validate(self) -> Request:
        validation, trainer = self.validation, self.trainer
        assert validation is not None
        with trainer.evaluating():
            loss = validation.loss(trainer.model, trainer.objective, trainer.batches.micro_rows, trainer.device)
        self.validation_loss, self._validated_at = loss, trainer.step
        record = validation.record(trainer.step, trainer.targets, loss)
        self._record(record)
        self._recent.clear()  # the time that validation took is no slowness of the steps
        self._recent.append((time.monotonic(), trainer.targets))
        return self.observers.on("validation", record)

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
        self.observers.on("checkpoint", {"step": trainer.step, "path": str(self.checkpoints.folder)})

    def _stop(self, signal_number: int, asked: Request) -> None:
        """Save and leave, unless the last step is done anyway."""
        if self.trainer.step >= self.rhythm.steps:
            return
        if self.checkpoints is not None:
            self.checkpoints.wait()
            if self.checkpoints.written != self.trainer.step:  # a full disk may have cost the one begun at this step
                self._saved_at = -1
                self._save(background=False)
        place = f"stopped after step {self.trainer.step} of {self.rhythm.steps}; everything is saved"
        self.observers.on("end", {"step": self.trainer.step, "status": "interrupted"})
        if self.run is None:
            raise Interrupted(place, signal_number=signal_number or 2)
        self.run.log(place + (f" ({asked.reason})" if asked.reason else ""))
        raise Interrupted(place, f"go on with: lavra resume {self.run.path}", signal_number=signal_number or 2)

    def _roll_back(self, request: RollBack) -> None:
        """Go back to the last checkpoint, with the bad step left out from now on."""
        trainer = self.trainer
        if self.checkpoints is None or self.run is None or trainer.batches.ranks.world > 1:
            raise LavraError(
                f"step {request.step + 1}: {request.reason}; several processes cannot roll back together",
                "use --faults.policy skip, or resume the run, which starts at the last checkpoint",
            ) from request
        self.checkpoints.wait()
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            raise LavraError(
                f"step {request.step + 1}: {request.reason}, and there is no checkpoint to go back to yet",
                "use --faults.policy skip, or more frequent checkpoints (--checkpoint-every)",
            ) from request
        trainer.excluded.add(request.step)
        trainer.restore(checkpoint.load, checkpoint.state)
        self.run.rewind(trainer.step)
        self._saved_at = trainer.step
        self._recent.clear()  # the count of tokens went back, too
        self._recent.append((time.monotonic(), trainer.targets))
        text = f"went back to step {trainer.step}; step {request.step + 1} will be left out ({request.reason})"
        self.run.log(text)
        say(text)

    @property
    def tokens_per_second(self) -> float:
        """Tokens learned from per second, over the last steps."""
        (first, before), (last, now) = self._recent[0], self._recent[-1]
        if last > first and len(self._recent) > 1:  # else a validation has just begun the count anew: as before it
            self._speed = (now - before) / (last - first)
        return self._speed

    def _note(self, report: StepReport) -> str:
        speed = self.tokens_per_second
        parts = [f"{show_count(self.trainer.targets)} tokens", f"loss {report.loss:.3f}"]
        if self.validation and self.validation_loss is not None:
            parts.append(f"validation {self.validation.bits_per_byte(self.validation_loss):.3f} bits/byte")
        parts.append(f"{show_count(speed)} tokens/s")
        if self.units.peak_flops:
            parts.append(f"{speed * self.units.flops_per_token / self.units.peak_flops:.0%} of peak")
        return "  ".join(parts)

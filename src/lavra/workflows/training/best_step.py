"""Overfitting: a warning while it happens, early stopping where it is asked for, and the best model as the result.

A model that memorises its training text gets worse on the validation text. The checkpoint with the lowest validation
loss is always kept; it is the result of a run whose last step is clearly worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.training.callbacks import Request
from lavra.training.checkpoints.checkpoints import Checkpoint, CheckpointStore
from lavra.training.plan import Plan

CLEARLY_WORSE = 0.01
"""Relative difference from which on a validation loss is clearly worse than the best one. All validations are on the
same rows, so that the noise between neighbouring steps is only some thousandths."""

_WARNED_AFTER = 2
"""Number of clearly worse validations in a row after which a warning is given."""


class OverfittingWatch:
    """A callback that warns when the validation loss has risen, and stops the run early where the request says so.

    Args:
        run: The folder of the run, whose metrics hold the validations before a resume.
        plan: The plan of the run.
        patience: Number of validations without a lower loss after which the run ends; None for never.
    """

    def __init__(self, run: RunFolder, plan: Plan, patience: int | None = None) -> None:
        self.run, self.plan, self.patience = run, plan, patience
        self.best: tuple[float, int] | None = None
        self.waited = self._worse = 0
        self.warned = False
        for line in run.metrics.read():
            if line.get("split") == "validation":
                self._take(line, quiet=True)

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Record the loss of a validation; other events are ignored."""
        if event == "validation":
            self._take(info, quiet=False)
        return None

    @property
    def is_over(self) -> bool:
        """Whether there were `patience` validations without a lower loss."""
        return self.patience is not None and self.waited >= self.patience

    def steps_after(self, step: int, steps: int) -> int:
        """Return the length of the run after `step` steps.

        Args:
            step: Number of steps done.
            steps: Length of the run so far.

        Returns:
            `step` where the run stops early, which is then written into the plan, else `steps`.
        """
        if not self.is_over or step >= steps or self.best is None:
            return steps
        text = (
            f"stopped early: {counted(self.waited, 'validation')} without a lower loss than that of step {self.best[1]}"
        )
        log(f"{text}; step {step} of {steps} is the last")
        self.run.log(f"{text}; step {step} of {steps} is the last")
        self.run.write_plan({**self.run.plan, "steps": step, "tokens": step * self.plan.batch_tokens})
        return step

    def _take(self, line: Mapping[str, Any], *, quiet: bool) -> None:
        loss, step = line.get("loss"), int(line.get("step", 0))
        if not isinstance(loss, int | float):
            return
        if self.best is None or loss < self.best[0]:
            self.best, self.waited, self._worse = (float(loss), step), 0, 0
            return
        self.waited += 1
        self._worse = self._worse + 1 if is_clearly_worse(float(loss), self.best[0]) else 0
        if self._worse >= _WARNED_AFTER and not self.warned:
            self.warned = True
            if not quiet:
                self._warn(float(loss), step)

    def _warn(self, loss: float, step: int) -> None:
        assert self.best is not None
        text = (
            f"warning: the validation loss has risen from {self.best[0]:.4f} at step {self.best[1]} to {loss:.4f}: the "
            "model is overfitting"
        )
        self.run.log(f"step {step}: {text}")
        log(f"{text}. The best checkpoint is kept; more text, a smaller model or fewer epochs help")


def is_clearly_worse(loss: float, best: float) -> bool:
    """Return whether a validation loss is clearly above the best one (by more than `CLEARLY_WORSE`)."""
    return loss > best + CLEARLY_WORSE * abs(best)


def with_early_stopping(
    watch: OverfittingWatch | None, length: Callable[[int], int] | None, plan: Plan
) -> Callable[[int], int] | None:
    """Return the function that gives the length of a run after each step, with early stopping where it is asked for.

    Args:
        watch: The callback; None without a record.
        length: The function without early stopping; None for a fixed length.
        plan: The plan of the run.
    """
    if watch is None or watch.patience is None:
        return length
    return lambda step: watch.steps_after(step, plan.steps if length is None else length(step))


def checkpoint_to_deliver(store: CheckpointStore, run: RunFolder, step: int) -> Checkpoint | None:
    """Return the checkpoint that is the result of a run in place of its last step.

    Args:
        store: The checkpoints of the run.
        run: The folder of the run, whose metrics hold the validation losses.
        step: The last step.

    Returns:
        The checkpoint with the lowest validation loss if the last step is clearly worse, else None.
    """
    losses = {
        line["step"]: line["loss"]
        for line in run.metrics.read()
        if line.get("split") == "validation" and isinstance(line.get("loss"), int | float)
    }
    best = store.best() if step in losses else None
    if best is None or best.score is None or best.step == step or not is_clearly_worse(losses[step], best.score):
        return None
    text = (
        f"the result is the model of step {best.step} (validation loss {best.score:.4f}), because that of the last "
        f"step, {step}, is clearly worse ({losses[step]:.4f})"
    )
    run.log(text)
    log(f"{text}; the last one is in checkpoints/")
    return best

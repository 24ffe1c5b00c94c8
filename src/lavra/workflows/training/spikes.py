"""Spikes of a run are noticed and logged, with what helps, whether or not such steps are skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import CorruptFile
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.training.callbacks import Request
from lavra.training.optimizers.table import METHODS, betas_of
from lavra.training.plan import Plan
from lavra.training.stability_words import Circumstances, outstanding, what_to_do
from lavra.training.updates.anomalies import SpikeDetector

_SMALLEST_RATIO = 3.0
"""Factor on the usual gradient norm below which a step whose loss is as usual is no spike: after a calm stretch even a
small change is an outlier."""

_MOST_LOGGED = 20
"""Spikes that get a line of the log each; more are only counted."""


class Advisor:
    """Says once for spikes and once for steps that are not finite what helps, by the settings of the run.

    Args:
        config: The request.
        plan: The plan of the run.
        run: The folder of the run, whose records of stability name what stands out; None without a record.
        write: Function that takes the paragraph.
    """

    def __init__(self, config: TrainConfig, plan: Plan, run: RunFolder | None, write: Callable[[str], None]) -> None:
        self.config, self.plan, self.run, self.write = config, plan, run, write
        self._said: set[bool] = set()

    def advise(self, *, finite: bool) -> None:
        """Write what helps, unless it was written already.

        Args:
            finite: Whether loss and gradient are numbers, and only far too large.
        """
        if finite in self._said:
            return
        self._said.add(finite)
        plan, optimizer = self.plan, self.plan.optimizer
        circumstances = Circumstances(
            learning_rate=optimizer.learning_rate,
            warmup_steps=plan.schedule.warmup_steps,
            beta2=betas_of(optimizer)[1] if METHODS[optimizer.name].eps is not None else None,
            batch_tokens=plan.batch_tokens,
            precision=plan.precision,
            policy=self.config.anomalies.policy,
            skips_spikes=self.config.anomalies.spikes,
            stands_out=tuple(self._stands_out()),
        )
        self.write(what_to_do(finite, circumstances))

    def _stands_out(self) -> list[str]:
        try:
            return [] if self.run is None else outstanding(self.run.stability.read())
        except (CorruptFile, OSError):
            return []  # the advice without it is better than none


class SpikeWatch:
    """Callback that logs the spikes of a run, and how many there were at its end.

    Args:
        run: The folder of the run.
        advisor: What says what helps.

    Attributes:
        steps: Steps of the spikes so far.
    """

    def __init__(self, run: RunFolder, advisor: Advisor) -> None:
        self.run, self.advisor = run, advisor
        self.steps: list[int] = []
        self._detector = SpikeDetector()

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Look at the loss and the gradient norm of each step, and sum up at the end."""
        if event == "start" and info["step"]:
            for line in self.run.metrics.read()[-2 * self._detector.warmup :]:
                self._spike(line)
        if event == "step":
            told = self._spike(info)
            if told is not None:
                self._log(int(info["step"]), told)
        if event == "end" and self.steps:
            named = ", ".join(map(str, self.steps[:_MOST_LOGGED])) + (", …" if len(self.steps) > _MOST_LOGGED else "")
            text = f"{counted(len(self.steps), 'spike')} of loss or gradient norm, at step {named}"
            self.run.log(text)
            log(f"{text}; events.log says what helps")
        return None

    def _spike(self, line: Mapping[str, Any]) -> str | None:
        """Return what is unusual about a step, in words; None for nothing."""
        loss, norm = line.get("loss"), line.get("gradient_norm")
        if line.get("split", "train") != "train" or line.get("skipped"):
            return None
        if not isinstance(loss, int | float) or not isinstance(norm, int | float):
            return None
        spike = self._detector.observe(float(loss), float(norm))
        if spike is None or (spike.signal == "gradient_norm" and spike.value < _SMALLEST_RATIO * spike.usual):
            return None
        return str(spike)

    def _log(self, step: int, told: str) -> None:
        self.steps.append(step)
        if len(self.steps) <= _MOST_LOGGED:
            self.run.log(f"step {step}: spike: {told}")
        self.advisor.advise(finite=True)

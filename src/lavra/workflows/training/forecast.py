"""The forecast of a run, which is written into its plan, renewed at each validation, and compared at the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from lavra.core.disk.run_folder import RunFolder
from lavra.core.progress import log
from lavra.models.families.importing import CONFIG
from lavra.models.spec import DecoderSpec
from lavra.planning.budget import repetition_note, worth
from lavra.planning.corpus_stats import compressed_bits_per_byte, stretches
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.flops import matrix_parameters
from lavra.planning.machine.memory import estimate_memory
from lavra.planning.scaling_law.builtin import (
    GAIN_OF_BIGRAM_EMBEDDING,
    GAIN_OF_NGRAM_COPY,
    level_by_start,
    scaling_law_for,
)
from lavra.planning.scaling_law.curves import CurvePoint, forecast_from_curve
from lavra.planning.scaling_law.law import FAR, Interval, ScalingLaw
from lavra.planning.scaling_law.past_runs import load_calibration
from lavra.reports.forecast import rough_factor
from lavra.tasks.datasets import Dataset, TextDataset
from lavra.tasks.table import find_task
from lavra.training.callbacks import Request
from lavra.training.plan import Plan
from lavra.workflows.models.saved_base import BASE
from lavra.workflows.training.run_length import seconds_after

_LIBRARIES = psutil.Process().memory_info().rss
"""Bytes of the process before any model is made, which the libraries themselves take."""

_WORTH_A_DRY_RUN = 20.0
"""Length of a run in seconds from which on its memory is estimated by a dry run, which takes about a second."""

_COMPARED = ("seconds", "tokens_per_second", "peak_bytes", "bits_per_byte", "loss")
"""Names of the figures that are forecast and compared at the end."""


def with_forecast(
    plan: Plan,
    data: Dataset,
    home: Path | None = None,
    spent: float = 0.0,
    left: float | None = None,
    *,
    perturbs: bool = False,
) -> Plan:
    """Return the plan with its forecast: time, speed, memory, loss.

    The loss is forecast only for models trained from scratch; that of an adapted model depends on its pretraining.

    Args:
        plan: The plan of the run, with the speed of the timed steps.
        data: The data set.
        home: The folder of the run, in which the base model is saved; without it, the memory of a model of
            `transformers` is not forecast.
        spent: Seconds since the command started.
        left: Expected seconds from now to the end of a run without a time budget; None where they are not known.
        perturbs: Whether a technique of the run perturbs the weights, which takes copies of them.
    """
    calibration = load_calibration()
    expected: dict[str, float] = {}
    step = plan.probe.get("step_seconds")
    seconds = plan.steps * step * calibration.overhead if step else None
    if step:
        expected["tokens_per_second"] = plan.probe["tokens_per_second"]
    if plan.budget_seconds is not None:
        expected["seconds"] = plan.budget_seconds
    elif left is not None:
        expected["seconds"] = spent + left
    peak = plan.probe.get("peak_flops")
    rough = seconds or (plan.tokens * plan.flops_per_token / (0.3 * peak) if peak else 0.0)
    shape = _shape_to_dry_run(plan, home)
    if shape is not None and rough >= _WORTH_A_DRY_RUN:
        # The timed steps ran the compiler as well, whose memory a dry run does not see.
        so_far = measured_memory(plan.device) if step else None
        expected["peak_bytes"] = max(_expected_memory(plan, shape, perturbs), so_far or 0.0)
    law = run_scaling_law(plan, data)
    if law is not None and plan.model is not None:
        size, read = matrix_parameters(plan.model), read_bytes(plan, data, plan.epochs)
        found = law.shifted(calibration.law_factor).forecast(size, read, start_of(plan))
        expected |= {
            "bits_per_byte": found.value,
            "bits_per_byte_low": found.low,
            "bits_per_byte_high": found.high,
            "law_bits_per_byte": law.loss(size, read, start_of(plan)),
            "times_the_largest_run": law.beyond(size, read),
            "loss": found.value * data.bytes_per_target * math.log(2),
        }
        log(
            f"forecast: {found.value:.2f} bits per byte of validation text at the end "
            f"[{found.low:.2f}, {found.high:.2f}], by {law.origin}"
            + (
                f", EXTRAPOLATED to {rough_factor(beyond)} times the compute of the largest of them"
                if (beyond := law.beyond(size, read)) > FAR
                else ""
            )
        )
        if caveat := find_task(plan.task).forecast_caveat(plan.objective):
            log(f"note: {caveat}")
        if note := repetition_note(plan.epochs):
            log(f"note: {note}")
    reason = _reason_for_none(plan) if law is None else ""
    if reason:
        log(f"no forecast of the loss: {reason}")
    return replace(plan, forecast=expected, no_forecast=reason)


def _reason_for_none(plan: Plan) -> str:
    """Return why the loss of a run on text is not forecast; nothing for other tasks, which forecast on their own."""
    task = find_task(plan.task)
    if task.rows != "text":
        return ""
    adapted = "what an adapted model reaches depends on its pretraining"
    return task.no_forecast(plan.objective) or (adapted if plan.base else "no scaling law is known for such a model")


def seconds_by_peak(plan: Plan, flops: float) -> float:
    """Return the seconds that a run whose steps were not timed will roughly take, from its first step to its end.

    Args:
        plan: The plan of the run.
        flops: FLOP/s that training usually reaches on this machine, on all devices together.
    """
    per_token = plan.flops_per_token / flops
    return plan.tokens * per_token * load_calibration().overhead + seconds_after(plan, per_token)


def run_scaling_law(plan: Plan, data: Dataset) -> ScalingLaw | None:
    """Return the built-in scaling law for the text of a run.

    Args:
        plan: The plan of the run.
        data: The data set.

    Returns:
        The law; None for a run that does not train a decoder from scratch on text.
    """
    follows = find_task(plan.task).follows_scaling_law
    if plan.model is None or plan.base is not None or not follows or not isinstance(data, TextDataset):
        return None
    level = None
    if plan.start_bits_per_byte is not None:
        shape = plan.model.vocabulary, plan.model.width, plan.bigram_contexts
        level = level_by_start(plan.start_bits_per_byte, *shape)
    return scaling_law_for(compressed_bits_per_byte(stretches(data.prepared)), _gain(plan), level)


def start_of(plan: Plan) -> float:
    """Return the bits per byte before the first step; infinity without a warm start.

    Args:
        plan: The plan of the run.
    """
    return _gain(plan) * plan.start_bits_per_byte if plan.start_bits_per_byte else math.inf


def _gain(plan: Plan) -> float:
    """Return the bits per byte relative to those of a model without bigram embedding and n-gram copy."""
    if plan.model is None:
        return 1.0
    return (GAIN_OF_BIGRAM_EMBEDDING if plan.model.bigram_embedding else 1.0) * (
        GAIN_OF_NGRAM_COPY if plan.model.ngram_copy else 1.0
    )


def read_bytes(plan: Plan, data: Dataset, epochs: float) -> float:
    """Return the effective bytes of text in a number of epochs, in which repeated text counts for less than new text.

    Args:
        plan: The plan of the run.
        data: The data set.
        epochs: Number of passes over the text, which need not be whole.
    """
    return worth(epochs) * data.epoch_tokens(plan) * data.bytes_per_target


def _shape_to_dry_run(plan: Plan, home: Path | None) -> DecoderSpec | Path | None:
    """Return the shape of the model: lavra's own, or a folder of a decoder or encoder of `transformers`; or None."""
    if plan.model is not None:
        return plan.model
    if plan.facts.get("generator_share"):
        return None  # of a model of transformers the outline of its generator is known only once it was opened
    folder = None if home is None else home / BASE
    return folder if folder is not None and (folder / CONFIG).is_file() and not plan.source_context else None


def _expected_memory(plan: Plan, shape: DecoderSpec | Path, perturbs: bool) -> float:
    """Return the expected peak memory in bytes: of the whole process, or on a GPU of the tensors there.

    A checkpoint is written beside the training, from a copy in main memory of the weights and the optimiser's state.
    """
    estimate = estimate_memory(DryRun.of_plan(plan, shape, perturbs=perturbs), plan.micro_batch_size)
    if plan.device == "cuda":
        return float(estimate.peak)
    copied = (estimate.master_weights or estimate.weights) + estimate.optimizer
    return float(estimate.process + _LIBRARIES + copied)


def measured_memory(device: str) -> float | None:
    """Return the peak memory of this process in bytes.

    Args:
        device: The type of the device that trains: cpu, cuda or mps.

    Returns:
        The peak of the whole process on a CPU, and of the tensors on a CUDA device; None where it cannot be measured.
    """
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    if device != "cpu" or sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)


def against(expected: Mapping[str, float], result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the predicted and the actual value of each figure that is in the forecast and in the result.

    Args:
        expected: The forecast of the plan.
        result: The final figures of the run.

    Returns:
        For each figure `predicted`, `actual` and the relative `difference`; for bits per byte also the interval.
    """
    actual: dict[str, Any] = {name: _plain(result.get(name)) for name in _COMPARED}
    compared: dict[str, dict[str, float]] = {}
    for name in _COMPARED:
        if name in expected and actual[name]:
            compared[name] = {
                "predicted": expected[name],
                "actual": actual[name],
                "difference": actual[name] / expected[name] - 1.0,
            }
    if "bits_per_byte" in compared:
        low, high = expected["bits_per_byte_low"], expected["bits_per_byte_high"]
        compared["bits_per_byte"] |= {"low": low, "high": high}
    return compared


def _plain(figure: Any) -> Any:
    return figure.get("value") if isinstance(figure, Mapping) else figure


# The forecast of a run, renewed at each validation from the validation losses so far.

_NEWS = 0.01
"""Relative change of the forecast from which on it is printed again."""


class LiveForecast:
    """A callback that logs a new forecast of the final loss after each validation, and prints it when it has changed.

    Args:
        run: The folder of the run, which gets the forecasts in `events.log`.
        plan: The plan of the run.
        data: The data set.
        law: The scaling law of the run.
    """

    def __init__(self, run: RunFolder, plan: Plan, data: Dataset, law: ScalingLaw) -> None:
        self.run, self.plan, self.data, self.law = run, plan, data, law
        self._said: float | None = None
        # Validations read the rows as training does, which is not how the finished model is measured.
        self._read = " as its validations read it" if find_task(plan.task).forecast_caveat(plan.objective) else ""

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Forecast the final loss after a validation; other events are ignored."""
        if event != "validation":
            return None
        steps = self.run.plan["steps"]  # a timed run may fix it anew
        found = None if info["step"] >= steps else self.at(info, steps)
        if found is None:
            return None
        line = (
            f"forecast: {found.value:.3f} bits per byte of validation text{self._read} at the end "
            f"[{found.low:.3f}, {found.high:.3f}], by the validation curve so far"
        )
        self.run.log(f"step {info['step']}: {line}")
        if self._said is None or abs(found.value / self._said - 1.0) > _NEWS:
            log(line)
            self._said = found.value
        return None

    def at(self, info: Mapping[str, Any], steps: int) -> Interval | None:
        """Return the forecast of the bits per byte at the end of the run; None where the run is too young for one.

        Args:
            info: The `step`, the `tokens` trained on and the `bits_per_byte` of a validation.
            steps: Number of steps of the run.
        """
        assert self.plan.model is not None
        return forecast_from_curve(
            [self._point(info)],
            law=self.law,
            parameters=matrix_parameters(self.plan.model),
            steps=steps,
            text_bytes=read_bytes(self.plan, self.data, self.plan.epochs * steps / self.plan.steps),
            schedule=self.plan.schedule,
            start=start_of(self.plan),
        )

    def _point(self, info: Mapping[str, Any]) -> CurvePoint:
        epochs = info["tokens"] / self.data.epoch_tokens(self.plan)
        return CurvePoint(info["step"], read_bytes(self.plan, self.data, epochs), info["bits_per_byte"])


def live_forecasts(run: RunFolder | None, plan: Plan, data: Dataset) -> list[LiveForecast]:
    """Return the forecasting callback of a run.

    Args:
        run: The folder of the run; None on processes without a record.
        plan: The plan of the run.
        data: The data set.

    Returns:
        One callback, or none where there is no law for the run or no record.
    """
    law = None if run is None else run_scaling_law(plan, data)
    return [] if run is None or law is None else [LiveForecast(run, plan, data, law)]

"""What a run is expected to take and bring, written into its plan; and how that compares in the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil
import torch

from lavra.core.disk.run_folder import RunFolder
from lavra.core.progress import say
from lavra.planning.budget import worth
from lavra.planning.corpus_stats import compressed_bits_per_byte, stretches
from lavra.planning.machine.dry_run import Rehearsal
from lavra.planning.machine.flops import matrix_parameters
from lavra.planning.machine.memory import estimate_memory
from lavra.planning.plan import Plan
from lavra.planning.scaling_law.builtin import GAIN_OF_PAIRS, GAIN_OF_RECALL, law_for, level_by_start
from lavra.planning.scaling_law.curves import CurvePoint, forecast_from_curve
from lavra.planning.scaling_law.law import Law
from lavra.planning.scaling_law.past_runs import load_calibration
from lavra.training.callbacks import Request
from lavra.workflows.datasets.dataset import Material, TextMaterial

_LIBRARIES = psutil.Process().memory_info().rss
"""Bytes of the process before any model: what the libraries themselves take."""

_WORTH_REHEARSING = 20.0
"""Seconds of a run from which on a rehearsal of its memory, about a second, is nothing to it."""

_COMPARED = ("seconds", "tokens_per_second", "peak_bytes", "bits_per_byte", "loss")


def with_expectation(plan: Plan, data: Material) -> Plan:
    """Return the plan with what the run is expected to take and bring in `forecast`.

    The loss is forecast for models that begin from nothing; one that is adapted begins where its past left it.
    """
    calibration = load_calibration()
    expected: dict[str, float] = {}
    step = plan.probe.get("step_seconds")
    seconds = plan.steps * step * calibration.overhead if step else None
    if step:
        expected["tokens_per_second"] = plan.probe["tokens_per_second"]
    if plan.budget_seconds is not None:
        expected["seconds"] = plan.budget_seconds
    peak = plan.probe.get("peak_flops")
    rough = seconds or (plan.tokens * plan.flops_per_token / (0.3 * peak) if peak else 0.0)
    if plan.model is not None and rough >= _WORTH_REHEARSING:
        # The steps that were timed needed the compiler too, which no rehearsal knows of.
        so_far = measured_memory(plan.device) if step else None
        expected["peak_bytes"] = max(_expected_memory(plan), so_far or 0.0)
    law = run_law(plan, data)
    if law is not None and plan.model is not None:
        size, read = matrix_parameters(plan.model), read_bytes(plan, data, plan.epochs)
        found = law.shifted(calibration.law_factor).forecast(size, read, start_of(plan))
        expected |= {
            "bits_per_byte": found.value,
            "bits_per_byte_low": found.low,
            "bits_per_byte_high": found.high,
            "law_bits_per_byte": law.loss(size, read, start_of(plan)),
            "loss": found.value * data.bytes_per_target * math.log(2),
        }
        say(
            f"forecast: {found.value:.2f} bits per byte of validation text at the end "
            f"[{found.low:.2f}, {found.high:.2f}], by {law.origin}"
        )
    return replace(plan, forecast=expected)


def run_law(plan: Plan, data: Material) -> Law | None:
    """Return the built-in law for the text of a run; None where a run is no training of a decoder from nothing."""
    if plan.model is None or plan.base is not None or plan.objective != "causal" or not isinstance(data, TextMaterial):
        return None
    level = None
    if plan.start_bits_per_byte is not None:
        shape = plan.model.vocabulary, plan.model.width, plan.bigram_contexts
        level = level_by_start(plan.start_bits_per_byte, *shape)
    return law_for(compressed_bits_per_byte(stretches(data.prepared)), _gain(plan), level)


def start_of(plan: Plan) -> float:
    """Return the bits per byte that a run begins with; infinite for random weights, which know nothing."""
    return _gain(plan) * plan.start_bits_per_byte if plan.start_bits_per_byte else math.inf


def _gain(plan: Plan) -> float:
    """Return the bits per byte of such a model by those of one that knows no pairs and recalls nothing."""
    if plan.model is None:
        return 1.0
    return (GAIN_OF_PAIRS if plan.model.pairs else 1.0) * (GAIN_OF_RECALL if plan.model.recall else 1.0)


def read_bytes(plan: Plan, data: Material, epochs: float) -> float:
    """Return the effective bytes learned from in so many epochs."""
    return worth(epochs) * data.epoch_tokens(plan) * data.bytes_per_target


def _expected_memory(plan: Plan) -> float:
    """Return the bytes of the whole process; on a GPU, of the tensors there."""
    assert plan.model is not None
    rehearsal = Rehearsal(
        plan.model,
        plan.context,
        plan.precision,
        plan.optimizer,
        plan.edits,
        plan.isolate,
        gpu=plan.device == "cuda",
        micro_batches=min(2, max(1, plan.rows_per_step // plan.micro_rows)),
    )
    estimate = estimate_memory(rehearsal, plan.micro_rows)
    return float(estimate.peak if plan.device == "cuda" else estimate.process + _LIBRARIES)


def measured_memory(device: str) -> float | None:
    """Return the most bytes that the run held: the process's on a CPU, the tensors' on a CUDA device."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    if device != "cpu" or sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)


def against(expected: Mapping[str, float], result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return what was predicted beside what came, for each figure that both know.

    Args:
        expected: the plan's `forecast`.
        result: the run's figures.
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


# The forecast of a run, renewed at each validation from the run's own curve.

_NEWS = 0.01
"""A forecast is said again when it has moved by more than this share."""


class LiveForecast:
    """An observer that writes the forecast of the final validation into `events.log`, and says it when it moves.

    Args:
        run: the record, in which earlier validations are found after a resume too.
        plan: of the run.
        data: what it learns from.
        law: of the run.
    """

    def __init__(self, run: RunFolder, plan: Plan, data: Material, law: Law) -> None:
        self.run, self.plan, self.data, self.law = run, plan, data, law
        self._said: float | None = None

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Forecast anew after a validation."""
        if event != "validation":
            return None
        steps = self.run.plan["steps"]  # a timed run may fix it anew
        if info["step"] >= steps:
            return None
        assert self.plan.model is not None
        found = forecast_from_curve(
            [self._point(info)],
            law=self.law,
            parameters=matrix_parameters(self.plan.model),
            steps=steps,
            text_bytes=read_bytes(self.plan, self.data, self.plan.epochs * steps / self.plan.steps),
            schedule=self.plan.schedule,
            start=start_of(self.plan),
        )
        if found is None:
            return None
        line = (
            f"forecast: {found.value:.3f} bits per byte of validation text at the end "
            f"[{found.low:.3f}, {found.high:.3f}], by the validation curve so far"
        )
        self.run.log(f"step {info['step']}: {line}")
        if self._said is None or abs(found.value / self._said - 1.0) > _NEWS:
            say(line)
            self._said = found.value
        return None

    def _point(self, info: Mapping[str, Any]) -> CurvePoint:
        epochs = info["tokens"] / self.data.epoch_tokens(self.plan)
        return CurvePoint(info["step"], read_bytes(self.plan, self.data, epochs), info["bits_per_byte"])


def live_forecasts(run: RunFolder | None, plan: Plan, data: Material) -> list[LiveForecast]:
    """Return the observer of a run, or none where there is no law for it or nobody to write for."""
    law = None if run is None else run_law(plan, data)
    return [] if run is None or law is None else [LiveForecast(run, plan, data, law)]

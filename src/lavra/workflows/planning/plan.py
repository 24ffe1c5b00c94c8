"""`lavra plan`: what a training run will take and reach, from its request alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lavra.config.planning import PlanRequest
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import show_duration
from lavra.data.token_store.prepare import open_prepared
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.spec import DecoderSpec
from lavra.planning.budget import (
    TOKENS_PER_PARAMETER,
    batch_tokens_for,
    busy_tokens,
    demand_text,
    draft_shape,
    vocabulary_for,
    worth,
)
from lavra.planning.corpus_stats import CorpusStats, corpus_stats, corpus_stats_of_prepared
from lavra.planning.fitting import memory_forecast
from lavra.planning.forecast import PlanReport, Speed, cost_of
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.flops import FlopCount, count_flops
from lavra.planning.machine.hardware import Hardware, named_hardware, this_hardware
from lavra.planning.machine.memory import estimate_memory
from lavra.planning.machine.timed_steps import probe_dry_run
from lavra.planning.scaling_law.past_runs import Calibration, load_calibration
from lavra.training.devices import choose_device, use_threads
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.workflows.datasets.text import is_prepared, open_tokenizer
from lavra.workflows.models.base_model import WINDOW
from lavra.workflows.planning.forecast import COMFORTABLE_BUDGET, expected_start, forecast_of, notes_on
from lavra.workflows.planning.model import described, model_of, starting_model, with_context
from lavra.workflows.training.autoconfig import DEFAULT_BUDGET, tokens_at_once

BYTES_PER_TOKEN = 3.5
"""Bytes of text for each token, as long as there is no tokenizer."""

_SHORTEST_BUDGET = 10.0
"""Seconds that start-up, timed steps and the final evaluation take by themselves; a shorter budget is refused."""

_START_UP_SECONDS = 5.0
"""Seconds that imports and the measurement of the matrix peak take."""

_PROBE_SECONDS = 8.0
"""Most seconds of the timed steps from which the speed is read."""


def plan(request: PlanRequest) -> PlanReport:
    """Forecast what a training run takes in memory, time and money, and which loss it reaches.

    Nothing is trained, except for some timed steps on this machine and a pilot if the request asks for one.

    Args:
        request: The request of the plan.

    Returns:
        The forecast.

    Raises:
        InputError: If the request or the text is wrong, or the budget is spent before the first step.
    """
    _check(request)
    calibration = load_calibration()
    hardware = _hardware(request)
    log(f"hardware: {hardware.name}, {hardware.peak_flops / 1e12:,.3g} TFLOP/s of {hardware.precision}")
    efficiency, source = _efficiency(request, hardware, calibration)
    draft = _Draft(request, hardware, efficiency)
    text = _corpus_stats(request, draft) if request.data else None
    model = draft.model(text.text_bytes if text else None)
    if isinstance(model, DecoderSpec):
        model = _fitting(draft, model, text, hardware, request)
        if text is not None and request.base is None:
            model = replace(model, vocabulary=text.vocabulary)
    context = request.context or described(model, request.model).context
    if request.base is not None and request.context is None:
        context = min(context, WINDOW[hardware.device])
    flops = count_flops(model, context)
    speed = _speed(request, hardware, model, context, flops, efficiency, source)
    tokens = _tokens(request, text, speed, calibration, context)
    return _plan_report(request, hardware, model, flops, speed, tokens, text, calibration)


def _check(request: PlanRequest) -> None:
    given = [name for name in ("budget", "tokens", "epochs", "steps") if getattr(request, name) is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(f'--{name}' for name in given)} both say how long to train", "give one")
    if request.base is not None and request.model != "auto":
        raise InputError(
            "--model and --from both name a model", "give --from to adapt one, --model to begin from nothing"
        )
    if not request.data and ((request.model == "auto" and request.base is None) or request.epochs is not None):
        raise InputError(
            "without text, nothing says what to train on",
            "lavra plan FOLDER --budget 1h, or lavra plan --model opt-125m --tokens 330M --hardware a100-40gb",
        )
    for name in (*given, "efficiency", "micro_batch_size", "context", "watts"):
        if getattr(request, name) is not None and getattr(request, name) <= 0:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(request, name)}", "it must be above 0")
    if request.efficiency is not None and request.efficiency > 1:
        raise InputError(f"--efficiency is {request.efficiency}", "it is a share of the peak: 0.4 is 40 %")
    if request.budget is not None and request.budget < _SHORTEST_BUDGET:
        raise InputError(
            f"a budget of {show_duration(request.budget)} is spent before the first step: start-up, the probe and the "
            f"last evaluation take about {_SHORTEST_BUDGET:.0f} s, the compiler up to a minute where it is used",
            f"give at least {COMFORTABLE_BUDGET:.0f}s",
        )


def _hardware(request: PlanRequest) -> Hardware:
    if request.hardware != "this":
        return named_hardware(request.hardware, request.precision)
    use_threads(None)
    return this_hardware(choose_device("auto"), request.precision)


def _efficiency(request: PlanRequest, hardware: Hardware, calibration: Calibration) -> tuple[float, str]:
    if request.efficiency is not None:
        return request.efficiency, "as given"
    return calibration.efficiency_on(hardware.device, hardware.peak_flops, torch.get_num_threads())


@dataclass(frozen=True)
class _Draft:
    """Chooses the model when the size of the text is known."""

    request: PlanRequest
    hardware: Hardware
    efficiency: float

    def flops(self, text_bytes: float | None) -> float:
        """Return the FLOPs of the run; for a length in tokens, those of the compute-optimal model for it.

        The compute-optimal model for D tokens has about D / `TOKENS_PER_PARAMETER` matrix parameters, and a step takes
        6 FLOPs for each parameter and token (Hoffmann et al., arXiv 2203.15556).
        """
        request = self.request
        if request.tokens is None and request.epochs is None and request.steps is None:
            return (request.budget or DEFAULT_BUDGET) * 0.85 * self.hardware.peak_flops * self.efficiency
        tokens = float(request.tokens or 0)
        if request.epochs is not None:
            tokens = request.epochs * (text_bytes or 0.0) / BYTES_PER_TOKEN
        elif request.steps is not None:
            tokens = float(request.steps * (request.batch_tokens or 4096))
        return 6.0 * tokens**2 / TOKENS_PER_PARAMETER

    def model(self, text_bytes: float | None) -> DecoderSpec | Path:
        """Return the model that is asked for, or the best one for compute and text, with the context asked for."""
        asked = model_of(self.request)
        if asked is None:
            asked = draft_shape(self.flops(text_bytes), text_bytes or 1e12, self.hardware.memory).spec
        if isinstance(asked, DecoderSpec) and self.request.text.vocabulary and self.request.base is None:
            asked = replace(asked, vocabulary=self.request.text.vocabulary)
        return with_context(asked, self.request.context)


def _fitting(
    draft: _Draft, model: DecoderSpec, text: CorpusStats | None, hardware: Hardware, request: PlanRequest
) -> DecoderSpec:
    """Return a chosen model that is small enough for a micro-batch of one sequence to fit into memory.

    A model that the request names is left as it is.
    """
    if request.model != "auto" or request.base is not None:
        return model
    flops = draft.flops(text.text_bytes if text else None)
    while not estimate_memory(_dry_run(request, hardware, model, model.context), 1).fits(hardware.memory):
        flops /= 3
        smaller = with_context(draft_shape(flops, text.text_bytes if text else 1e12).spec, request.context)
        if not isinstance(smaller, DecoderSpec) or smaller.width >= model.width:
            break
        model = smaller
    return model


def _corpus_stats(request: PlanRequest, draft: _Draft) -> CorpusStats:
    if is_prepared(request.data):
        found = corpus_stats_of_prepared(open_prepared(request.data[0]))
    else:
        found = corpus_stats(
            request.data,
            _tokenizer(request, draft),
            text_column=request.text.column,
            normalize=request.text.normalize,
            encoding=request.text.encoding,
            validation=request.text.validation,
            seed=request.seed,
        )
    demand_text(found.text_bytes)
    return found


def _tokenizer(request: PlanRequest, draft: _Draft) -> Tokenizer | Callable[[int], int]:
    if request.text.tokenizer:
        return open_tokenizer(request.text.tokenizer)
    if request.base is not None:
        return starting_model(request.base).tokenizer
    asked = model_of(request)
    if isinstance(asked, Path):
        return Tokenizer.load(asked)

    def choose(text_bytes: int) -> int:
        model = draft.model(text_bytes)
        assert isinstance(model, DecoderSpec)
        return request.text.vocabulary or vocabulary_for(model.vocabulary, text_bytes)

    return choose


def _dry_run(request: PlanRequest, hardware: Hardware, model: DecoderSpec | Path, context: int) -> DryRun:
    return DryRun(
        model,
        context,
        hardware.precision,
        OptimizerOptions(name=request.optimizer or ("muon" if request.base is None else "adamw")),
        request.transforms,
        request.text.isolate,
        gpu=hardware.device == "cuda",
    )


def _speed(
    request: PlanRequest,
    hardware: Hardware,
    model: DecoderSpec | Path,
    context: int,
    flops: FlopCount,
    efficiency: float,
    source: str,
) -> Speed:
    """Return the expected speed: that of timed steps on this machine, else a share of the peak of the hardware."""
    if not hardware.here or request.efficiency is not None:
        return Speed.from_efficiency(hardware.peak_flops, flops.exact, efficiency, source)
    dry_run = _dry_run(request, hardware, model, context)
    rows = request.micro_batch_size or max(1, tokens_at_once(hardware.device, flops.exact) // context)
    while rows > 1 and not estimate_memory(dry_run, rows).fits(hardware.memory):
        rows //= 2
    if not estimate_memory(dry_run, rows).fits(hardware.memory):
        return Speed.from_efficiency(hardware.peak_flops, flops.exact, efficiency, source)
    expected = request.budget or DEFAULT_BUDGET if request.tokens is None else DEFAULT_BUDGET
    probe = probe_dry_run(dry_run, rows, choose_device("auto"), _PROBE_SECONDS, expected)
    return Speed.from_probe(probe.tokens_per_second, hardware.peak_flops, flops.exact)


def _tokens(
    request: PlanRequest, text: CorpusStats | None, speed: Speed, calibration: Calibration, context: int
) -> float:
    if request.tokens is not None:
        return float(request.tokens)
    if request.epochs is not None:
        assert text is not None
        return request.epochs * text.tokens.value
    if request.steps is not None:
        return float(request.steps * (request.batch_tokens or max(context, 4096)))
    return (request.budget or DEFAULT_BUDGET) / calibration.overhead * speed.tokens_per_second


def _plan_report(
    request: PlanRequest,
    hardware: Hardware,
    model: DecoderSpec | Path,
    flops: FlopCount,
    speed: Speed,
    tokens: float,
    text: CorpusStats | None,
    calibration: Calibration,
) -> PlanReport:
    shape = described(model, request.base or request.model)
    context = flops.context
    busy = busy_tokens(hardware.device, speed.tokens_per_second * flops.exact, flops.exact)
    per_step = request.batch_tokens or batch_tokens_for(tokens, context, busy, adapting=request.base is not None)
    most_rows = max(1, min(tokens_at_once(hardware.device, flops.exact), per_step) // context)
    memory = memory_forecast(
        _dry_run(request, hardware, model, context),
        hardware.memory,
        asked=request.micro_batch_size,
        most_rows=most_rows,
    )
    rule = Speed.from_efficiency(hardware.peak_flops, flops.rule, speed.efficiency, speed.source)
    watts = request.watts or hardware.watts
    overhead = calibration.overhead if hardware.here else 1.0
    epochs = tokens / text.tokens.value if text else None
    plan_report = PlanReport(
        hardware,
        shape,
        text,
        tokens,
        epochs,
        None if epochs is None else worth(epochs),
        flops,
        per_step,
        max(1, round(tokens / per_step)),
        speed,
        cost_of(overhead * tokens / speed.tokens_per_second, watts=watts, price_per_hour=request.price_per_hour),
        rule,
        cost_of(tokens / rule.tokens_per_second, watts=watts, price_per_hour=request.price_per_hour),
        memory,
        None,
    )
    if request.base is None:
        start = expected_start(model, tokens, flops, text)
        forecast = forecast_of(shape.matrix_parameters, tokens, text, calibration, start=start)
        plan_report = replace(plan_report, forecast=forecast)
    if request.pilot and request.base is None:
        from lavra.workflows.planning.pilot import piloted

        plan_report = piloted(request, plan_report)
    elif request.pilot:
        from lavra.workflows.planning.tuning_pilot import tuned

        plan_report = tuned(request, plan_report)
    preparing = _START_UP_SECONDS + (text.preparation_seconds if text else 0.0) if hardware.here else None
    return replace(plan_report, notes=tuple(notes_on(request, plan_report)), preparation_seconds=preparing)

"""`lavra plan`: what a training run will take and reach, from its request alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from lavra.config.planning import PlanRequest
from lavra.core.errors import InputError
from lavra.core.progress import Waiting, log
from lavra.core.units import show_count, show_duration
from lavra.data.token_store.prepare import open_prepared
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.building import parameters_of
from lavra.models.presets import preset
from lavra.models.spec import DecoderSpec
from lavra.objectives.room import Room
from lavra.planning.budget import demand_text, worth
from lavra.planning.corpus_stats import CorpusStats, corpus_stats, corpus_stats_of_prepared
from lavra.planning.fitting import memory_forecast
from lavra.planning.forecast import PlanReport, Speed, cost_of
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.flops import FlopCount, count_flops
from lavra.planning.machine.hardware import Hardware, named_hardware, this_hardware
from lavra.planning.machine.memory import estimate_memory
from lavra.planning.machine.timed_steps import probe_dry_run
from lavra.planning.scaling_law.past_runs import Calibration, load_calibration
from lavra.tasks.base import Task
from lavra.tasks.datasets import DataDescription, DataSize, RowShape
from lavra.training.batches import DistributedInfo
from lavra.training.devices import choose_device, use_threads
from lavra.training.plan import Plan
from lavra.workflows.datasets.preparation import vocabulary_of
from lavra.workflows.datasets.text import is_prepared, open_tokenizer
from lavra.workflows.labels.label_plan import LabelPlan, labelled_task, plan_labels
from lavra.workflows.models.base_model import Base
from lavra.workflows.models.open import hugging_face_folder
from lavra.workflows.planning.forecast import COMFORTABLE_BUDGET, expected_start, forecast_of, notes_on
from lavra.workflows.planning.model import asked_shape, described, outline_of, planned_task, starting_model
from lavra.workflows.training.autoconfig import Machine, autoconfig, draft_model, given_seconds, learner_of
from lavra.workflows.training.compiled_parts import compiled_parts
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.run_length import steps_within, with_length
from lavra.workflows.training.techniques import cost_of_steps, perturbs_weights
from lavra.workflows.training.usual_length import training_budget, with_usual_length

_SHORTEST_BUDGET = 10.0
"""Seconds that start-up, timed steps and the final evaluation take by themselves; a shorter budget is refused."""

_START_UP_SECONDS = 5.0
"""Seconds that imports and the measurement of the matrix peak take."""

_PROBE_SECONDS = 8.0
"""Most seconds of the timed steps from which the speed is read."""

_UNKNOWN_VALIDATION = 1_000_000
"""Tokens of validation text that are assumed where there is no text yet."""


def plan(request: PlanRequest) -> PlanReport | LabelPlan:
    """Forecast what a training run takes in memory, time and money, and which loss it reaches.

    The run is the one that `lavra train` makes of the same request: the same functions choose model, batch size,
    optimiser and length. Nothing is trained, except for some timed steps on this machine and a pilot if the request
    asks for one. Of rows with labels the quality is forecast, by linear models on parts of the rows.

    Args:
        request: The request of the plan.

    Returns:
        The forecast.

    Raises:
        InputError: If the request or the text is wrong, or the budget is spent before the first step.
    """
    _check(request)
    labelled = labelled_task(request)
    if labelled is not None:
        return plan_labels(request, labelled)
    task, objective = planned_task(request)
    request = training_budget(with_usual_length(request, task, objective))
    calibration = load_calibration()
    hardware = _hardware(request)
    log(f"hardware: {hardware.name}, {hardware.peak_flops / 1e12:,.3g} TFLOP/s of {hardware.precision}")
    machine, source = _machine(request, hardware, calibration)
    start = _start(request, machine, task, objective)
    text = _text(request, machine, start)
    data, before = _Size(request, text, start), _seconds_before(hardware, text)
    model = start or draft_model(request, machine, data.bytes, before)
    learner = learner_of(request, model, data, task, objective)
    facts = task.asked(request, DataDescription())
    planned = autoconfig(request, machine, learner, data, DistributedInfo(), facts, spent=before)
    shape = learner.spec or Path(hugging_face_folder(planned.base or "") or planned.base or "")
    flops = _flops(planned, shape)
    _tell_roughly(request, planned, flops, machine)
    planned, speed = _timed(request, hardware, planned, shape, flops, machine, source)
    planned = _sized(request, planned, data, speed, before)
    report = _report(request, hardware, planned, shape, flops, speed, text, data, calibration)
    report = replace(report, preparation_seconds=before if hardware.here else None)
    return _with_loss(request, report, text, calibration, task)


def _flops(planned: Plan, shape: DecoderSpec | Path) -> FlopCount:
    """Return the FLOPs of a training step for each token of text, as the run will reckon them."""
    if isinstance(shape, DecoderSpec):
        return FlopCount(parameters_of(shape), planned.flops_per_token, planned.context)
    room = Room(planned.context, planned.context, planned.growth)
    return count_flops(shape, planned.context, planned.predicted, room)


def _check(request: PlanRequest) -> None:
    refuse_impossible(request)
    given_seconds(request)
    if request.base is not None and request.model.preset != "auto":
        raise InputError(
            "--model and --from both name a model", "give --from to adapt one, --model to begin from nothing"
        )
    named = request.base is not None or request.model.preset != "auto" or request.model.width is not None
    if not request.data and (not named or request.epochs is not None):
        raise InputError(
            "without text, nothing says what to train on",
            "lavra plan FOLDER --budget 1h, or lavra plan --model opt-125m --tokens 330M --hardware a100-40gb",
        )
    for name in ("efficiency", "watts"):
        if getattr(request, name) is not None and getattr(request, name) <= 0:
            raise InputError(f"--{name} is {getattr(request, name)}", "it must be above 0")
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
        return named_hardware(request.hardware, request.machine.precision)
    use_threads(request.machine.threads)
    return this_hardware(choose_device(request.machine.device), request.machine.precision)


def _machine(request: PlanRequest, hardware: Hardware, calibration: Calibration) -> tuple[Machine, str]:
    """Return the machine as `lavra train` sees it, and the source of its efficiency in words."""
    threads = torch.get_num_threads()
    if request.efficiency is None:
        efficiency, source = calibration.efficiency_on(hardware.device, hardware.peak_flops, threads)
    else:
        efficiency, source = request.efficiency, "as given"
    device = torch.device(hardware.device)
    return Machine(device, hardware.precision, hardware.peak_flops, threads, hardware.memory, efficiency), source


def _start(request: PlanRequest, machine: Machine, task: Task, objective: str) -> DecoderSpec | Base | None:
    """Return the model that the request names by a folder or a base; None where it names a preset or nothing."""
    if request.base is not None:
        return outline_of(request, starting_model(request.base).model, request.base, machine.device, task, objective)
    shape = asked_shape(request)
    if isinstance(shape, Path):
        return outline_of(request, shape, request.model.preset, machine.device, task, objective)
    return shape if shape is None or request.model.context is None else replace(shape, context=request.model.context)


def _text(request: PlanRequest, machine: Machine, start: DecoderSpec | Base | None) -> CorpusStats | None:
    """Return the statistics of the text, with the tokenizer that the run would use; None without text."""
    if not request.data:
        return None
    if is_prepared(request.data):
        found = corpus_stats_of_prepared(open_prepared(request.data[0]))
    else:
        found = corpus_stats(
            request.data,
            _tokenizer(request, machine, start),
            text_column=request.text.column,
            normalize=request.text.normalize,
            encoding=request.text.encoding,
            validation=request.text.validation,
            seed=request.seed,
        )
    demand_text(found.text_bytes)
    return found


def _tokenizer(
    request: PlanRequest, machine: Machine, start: DecoderSpec | Base | None
) -> Tokenizer | Callable[[int], int]:
    if request.text.tokenizer:
        return open_tokenizer(request.text.tokenizer)
    if isinstance(start, Base):
        return start.tokenizer

    def choose(text_bytes: int) -> int:
        wanted = (start or draft_model(request, machine, text_bytes)).vocabulary
        return vocabulary_of(request, wanted, text_bytes)

    return choose


class _Size:
    """How much text there is to train and to validate on, by its statistics and the request; see `DataSize`."""

    context: int | None = None
    source_context = 0

    def __init__(self, request: PlanRequest, text: CorpusStats | None, start: DecoderSpec | Base | None) -> None:
        total = math.inf if text is None else text.text_bytes
        prepared = text is not None and text.exact  # such statistics are those of the training text alone
        share = 0.0 if prepared or text is None else request.text.validation_share
        held_out = min(share * total, request.text.validation_limit) if text is not None else 0.0
        self.bytes = int(min(total - held_out, 1e15))
        self._tokens = math.inf if text is None else max(1.0, text.tokens.value * (1.0 - held_out / total))
        self._validation = float(_UNKNOWN_VALIDATION)
        if text is not None:
            self._validation = held_out / text.bytes_per_token
        if prepared:
            self._validation = open_prepared(request.data[0]).validation.manifest.tokens
        if text is not None:
            self.vocabulary = text.vocabulary
        elif isinstance(start, Base):
            self.vocabulary = start.tokenizer.vocabulary_size
        else:
            shape = start or (preset(request.model.preset) if request.model.preset != "auto" else DecoderSpec())
            self.vocabulary = request.text.vocabulary or shape.vocabulary

    def batch_tokens(self, shape: RowShape) -> int | None:
        """Return None: the length of the run decides."""
        return None

    def epoch_tokens(self, shape: RowShape) -> float:
        """Return the tokens of one pass over the training text."""
        return self._tokens

    def validation_rows(self, shape: RowShape) -> int:
        """Return the number of validation rows."""
        return max(1, math.ceil(self._validation / shape.context))


def _timed(
    request: PlanRequest,
    hardware: Hardware,
    planned: Plan,
    shape: DecoderSpec | Path,
    flops: FlopCount,
    machine: Machine,
    source: str,
) -> tuple[Plan, Speed]:
    """Return the plan with a micro-batch that fits into memory, and its speed.

    The speed is that of timed steps on this machine, else a share of the peak of the hardware; it counts every gradient
    that the techniques of the request take.
    """
    dry_run, rows = _dry_run(request, planned, shape), planned.micro_batch_size
    if request.machine.micro_batch_size is None:
        with Waiting("estimating the memory of a training step"):
            rows = _rows_that_fit(dry_run, planned, hardware.memory)
    planned = replace(planned, micro_batch_size=rows)
    efficiency = machine.expected_flops / machine.peak
    cost = cost_of_steps(request.technique)
    by_peak = Speed.from_efficiency(hardware.peak_flops, cost * flops.exact, efficiency, source)
    if not hardware.here or request.efficiency is not None:
        return planned, by_peak
    if not estimate_memory(dry_run, rows).fits(hardware.memory):
        return planned, by_peak
    plain = replace(dry_run, perturbs=False)  # the cost of the techniques is reckoned
    probe = probe_dry_run(plain, rows, machine.device, _PROBE_SECONDS, compile=planned.compile)
    # Tokens of text, of which an objective makes longer sequences, and few of which may be targets.
    tokens = rows * plain.micro_batches * planned.context / probe.step_seconds
    return planned, Speed.from_probe(tokens / cost, hardware.peak_flops, cost * flops.exact)


def _tell_roughly(request: PlanRequest, planned: Plan, flops: FlopCount, machine: Machine) -> None:
    """Say what plain arithmetic tells, before steps are timed and memory is estimated, which takes seconds."""
    speed = machine.expected_flops / flops.exact
    tokens = float(request.tokens or planned.tokens)
    name = request.base or ("a model that the plan chose" if request.model.preset == "auto" else request.model.preset)
    log(
        f"roughly: {name}, {show_count(planned.parameters)} parameters, {show_count(tokens)} tokens at "
        f"{show_count(speed)} tokens/s in {show_duration(tokens / speed)}"
    )


def _rows_that_fit(dry_run: DryRun, planned: Plan, memory: float) -> int:
    """Return the largest micro-batch of at most the planned sequences that fits into memory, or 1."""
    rows = planned.micro_batch_size
    while rows > 1 and not estimate_memory(dry_run, rows).fits(memory):
        rows = max(part for part in range(1, rows) if planned.global_batch_size % part == 0)
    return rows


def _seconds_before(hardware: Hardware, text: CorpusStats | None) -> float:
    """Return the expected seconds from the start of the command to the plan: start-up, reading, tokenising.

    They are known for this machine alone; for other hardware they are left out.
    """
    return _START_UP_SECONDS + (text.preparation_seconds if text else 0.0) if hardware.here else 0.0


def _dry_run(request: PlanRequest, planned: Plan, shape: DecoderSpec | Path) -> DryRun:
    return DryRun.of_plan(planned, shape, perturbs=perturbs_weights(request.technique))


def _sized(request: PlanRequest, planned: Plan, data: DataSize, speed: Speed, before: float) -> Plan:
    """Return the plan with the length that fits into its time budget at a speed, as a run sets it after timed steps."""
    per_token = 1.0 / speed.tokens_per_second
    if planned.budget_seconds is None:
        return planned
    step_seconds = per_token * planned.batch_tokens
    steps = steps_within(planned.budget_seconds - before, step_seconds, planned, request, data, per_token)
    return with_length(planned, steps, request, data, per_token)


def _report(
    request: PlanRequest,
    hardware: Hardware,
    planned: Plan,
    shape: DecoderSpec | Path,
    flops: FlopCount,
    speed: Speed,
    text: CorpusStats | None,
    data: DataSize,
    calibration: Calibration,
) -> PlanReport:
    with Waiting("estimating the memory of micro-batches"):
        memory = memory_forecast(
            _dry_run(request, planned, shape),
            hardware.memory,
            asked=request.machine.micro_batch_size,
            most_rows=planned.micro_batch_size,
        )
    by_rule = cost_of_steps(request.technique) * flops.rule
    rule = Speed.from_efficiency(hardware.peak_flops, by_rule, speed.efficiency, speed.source)
    power = {"watts": request.watts or hardware.watts, "price_per_hour": request.price_per_hour}
    # A length in tokens or epochs is forecast as it was asked for, and not rounded to whole steps.
    epoch = data.epoch_tokens(planned)
    tokens = float(request.tokens or (request.epochs * epoch if request.epochs else planned.tokens))
    seconds = (calibration.overhead if hardware.here else 1.0) * tokens / speed.tokens_per_second
    return PlanReport(
        hardware,
        described(shape, request.base or request.model.preset),
        text,
        tokens,
        None if text is None else tokens / epoch,
        None if text is None else worth(tokens / epoch),
        flops,
        planned.batch_tokens,
        planned.steps,
        speed,
        cost_of(seconds, **power),
        rule,
        cost_of(tokens / rule.tokens_per_second, **power),
        memory,
        None,
        plan=planned,
    )


def _with_loss(
    request: PlanRequest, report: PlanReport, text: CorpusStats | None, calibration: Calibration, task: Task
) -> PlanReport:
    """Return the report with the forecast of the loss, by the law or a pilot, and with its notes."""
    reason = None if report.plan is None else task.no_forecast(report.plan.objective)
    if request.pilot and reason is not None:
        raise InputError(f"--pilot extrapolates by a scaling law, and there is none here: {reason}", "leave it out")
    if request.base is None and report.plan is not None and task.follows_scaling_law:
        model = report.plan.model or Path(request.model.preset)
        start = expected_start(model, report.tokens, report.flops, text)
        forecast = forecast_of(
            report.model.matrix_parameters, report.tokens, text, calibration, start=start, epochs=report.epochs
        )
        report = replace(report, forecast=forecast)
    if request.pilot and request.base is None:
        from lavra.workflows.planning.pilot import piloted

        report = piloted(request, report)
    elif request.pilot:
        from lavra.workflows.planning.tuning_pilot import tuned

        report = tuned(request, report)
    if report.forecast is None:
        reason = reason or "what an adapted model reaches depends on its pretraining; pilot runs (--pilot 5%) tell"
        report = replace(report, no_forecast=reason)
    caveat = None if report.plan is None or report.forecast is None else task.forecast_caveat(report.plan.objective)
    compiled = "" if report.plan is None else compiled_parts(report.plan, request.machine.compile)
    told = [one for one in (caveat, compiled) if one]
    return replace(report, notes=(*told, *notes_on(request, report)))

"""What a sweep decides before its first trial: the data, the fixed options, the points, and how long a run is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lavra.config.training import TrainConfig
from lavra.config.tuning import TuneConfig
from lavra.core.configuration import from_table, to_json
from lavra.core.disk.sweep_folder import SweepFolder
from lavra.core.errors import InputError
from lavra.core.machine import give_back_freed_memory, usable_cores
from lavra.core.progress import log
from lavra.core.units import counted, show_count, show_duration
from lavra.data.readers.documents import is_repeatable
from lavra.evaluation.labels.metrics import METRICS
from lavra.tasks.base import Task
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.training.batches import DistributedInfo
from lavra.training.plan import Plan
from lavra.workflows.training.autoconfig import autoconfig, draft_model, learner_of
from lavra.workflows.training.job import TrainingJob
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.techniques import cost_of_steps
from lavra.workflows.tuning.halving import cost, rungs_of, starts
from lavra.workflows.tuning.points import TRIALS, choose_points
from lavra.workflows.tuning.recipe import pinned, shares_data
from lavra.workflows.tuning.space import STEP, Field, Point, field_from, shown, with_point

DEFAULT_BUDGET = 3600.0
"""Seconds of a sweep whose budget and length are not given."""

_TRAINING = 0.85
"""Share of the time that is left after the preparation which the trials may be planned to take."""

_START = 1.5
"""Seconds that each start of a trial takes besides building the model and its warm start."""

_EVALUATION = 0.7
"""Time of measuring a token relative to that of training on it: a forward pass, over windows that overlap by half."""

_EVALUATED = 0.02
"""Tokens on which a trial is measured, as a share of those that it is trained on, and fewest of them."""
_LEAST_EVALUATED = 8192

_SHORT = 5.0
"""Seconds of a whole run below which a warning is printed."""


@dataclass(frozen=True)
class Design:
    """What a sweep decided before its first trial.

    Attributes:
        base: The request of every trial but for its values, length, seed and folder.
        fields: The fields of the space.
        method: How points are chosen.
        points: The points; `tpe` adds to them.
        lengths: Tokens of the run of each point; 0 for the length of the request.
        rungs: The rungs, as shares of a run.
        seeds: The seeds of each point.
        evaluated: Most tokens of validation data on which text is measured.
        shared: Whether all trials learn from the same data, prepared in the sweep's folder or before.
        data: The data as the request names them.
        parallel: Number of trials at the same time.
        tokens: Tokens of a run whose values change nothing of its cost; 0 for the length of the request.
    """

    base: TrainConfig
    fields: Sequence[Field]
    method: str
    points: Sequence[Point]
    lengths: Sequence[int]
    rungs: Sequence[float]
    seeds: Sequence[int]
    evaluated: int
    shared: bool
    data: Sequence[str]
    parallel: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return the design as the JSON values of `sweep.json`."""
        plain = {name: getattr(self, name) for name in ("method", "evaluated", "shared", "parallel", "tokens")}
        lists = {name: list(getattr(self, name)) for name in ("points", "lengths", "rungs", "seeds", "data")}
        return {**plain, **lists, "fields": [field.to_json() for field in self.fields], "base": to_json(self.base)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], place: str) -> Design:
        """Return the design that JSON values describe.

        Args:
            values: Values of `sweep.json`.
            place: Name of the file, for messages.
        """
        fields = [field_from(one) for one in values["fields"]]
        base = from_table(TrainConfig, values["base"], place)
        names = ("method", "points", "lengths", "rungs", "seeds", "evaluated", "shared", "data", "parallel", "tokens")
        return cls(base, fields, **{name: values[name] for name in names})

    def request(self, number: int, seed: int, sweep: SweepFolder) -> TrainConfig:
        """Return the request of the run of a trial.

        Args:
            number: Number of the point.
            seed: Seed of the run.
            sweep: The folder of the sweep.
        """
        out = sweep.trial(number, seed, len(self.seeds))
        config = with_point(self.base, self.points[number])
        length = {"tokens": self.lengths[number]} if self.lengths[number] else {}
        prepared = (sweep.path / "data").absolute()
        data = (str(prepared),) if self.shared and prepared.exists() else tuple(self.data)
        return replace(config, seed=seed, out=str(out.absolute()), data=data, **length)

    def recipe(self, number: int, asked: TuneConfig) -> TrainConfig:
        """Return the request of a point as a person would give it: with the data as they were named.

        Args:
            number: Number of the point.
            asked: The request of the sweep.
        """
        config = with_point(self.base, self.points[number])
        length = {"tokens": self.lengths[number]} if self.lengths[number] else {}
        names = ("check", "samples", "checkpoint_every", "keep_checkpoints", "track", "deliver")
        kept = {name: getattr(asked, name) for name in names}
        text = replace(config.text, held_out=False)
        return replace(config, data=tuple(self.data), text=text, seed=self.seeds[0], out=None, **kept, **length)


def make_design(
    config: TuneConfig, fields: Sequence[Field], sweep: SweepFolder, began: float, *, parallel: int
) -> Design:
    """Prepare the data, check the set-up once, and decide on points and lengths; every point is planned.

    Args:
        config: The request, with absolute locations.
        fields: The fields that it names; empty for the usual ones.
        sweep: The folder of the sweep.
        began: When the command started (`time.monotonic`).
        parallel: Number of trials at the same time.

    Raises:
        InputError: If the request or the value of a point is wrong, or the data cannot be used.
        CheckFailed: If a check finds the set-up wrong.
    """
    asked = replace(config.training, text=replace(config.text, held_out=True))
    given = any(getattr(config, name) is not None for name in ("steps", "epochs", "tokens"))
    swept_length = any(field.name in ("steps", "epochs", "tokens") for field in fields)
    budget = None if given or swept_length else (config.budget or DEFAULT_BUDGET)
    points = choose_points(fields, config.method, config.trials, config.seed) if fields else []
    count = len(points) if points else TRIALS if config.trials is None else config.trials
    rungs = rungs_of(count) if config.method == "halving" else (1.0,)
    many = config.seeds / parallel
    times = None if budget is None else _Times(budget, cost(count, rungs) * many, starts(count, rungs) * many)
    probe = asked if times is None else replace(asked, budget=times.of_run(0.0, _START))
    probe = probe if given or budget is not None else with_point(probe, _first(fields, points))
    threads = max(1, (config.machine.threads or usable_cores()) // parallel) if parallel > 1 else None
    if threads is not None:
        probe = replace(probe, machine=replace(probe.machine, threads=threads))
    job, tokens = TrainingJob.create(probe, sweep.path, None, DistributedInfo(), began), 0
    try:
        _refuse_measure(config.measure, job.task)
        if not fields:
            fields = default_fields(job.plan)
            points = choose_points(fields, config.method, config.trials, config.seed)
            log(f"no --sweep is given: {', '.join(_told(field) for field in fields)}")
        ready = time.monotonic()
        job.build()
        if times is not None:
            job.warm_start()
        ready = time.monotonic() - ready
        if config.check:
            job.check()
        if times is not None:
            tokens = _tokens_in_time(job, times, began, ready + _START)
        design = _decided(config, probe, job, fields, points, rungs, parallel, tokens)
    finally:
        if hasattr(job, "trainer"):
            job.close()
    del job
    give_back_freed_memory()
    return design


def _decided(
    config: TuneConfig,
    probe: TrainConfig,
    job: TrainingJob,
    fields: Sequence[Field],
    points: Sequence[Point],
    rungs: Sequence[float],
    parallel: int,
    tokens: int,
) -> Design:
    """Return the design, after every point was planned."""
    plan, swept = job.plan, [field.name for field in fields]
    shared = shares_data(swept, job.dataset.rows)
    if not shared and not all(is_repeatable(location) for location in config.data):
        raise InputError("the data can be read once only, and each trial would read them", "save them as a file first")
    base = pinned(replace(probe, budget=None), plan, job.dataset, swept)
    labelled = isinstance(job.task, LabelledTextTask)
    base = replace(
        base,
        check=False,
        samples=0,
        keep_checkpoints=1,
        track=(),
        deliver="last" if labelled else base.deliver,  # a trial is the network, not the linear model beside it
    )
    planner = _Planner(base, job, shared)
    lengths = [planner.length(fields, point, tokens) for point in points]
    seeds = list(range(config.seed, config.seed + config.seeds))
    evaluated = _evaluated(plan, tokens or plan.tokens)
    design = Design(
        base,
        fields,
        config.method,
        points,
        lengths,
        rungs,
        seeds,
        evaluated,
        shared,
        config.data,
        parallel,
        tokens,
    )
    _tell(design, plan)
    return design


def next_length(design: Design, point: Point) -> int:
    """Return the tokens of the run of a point that was not known before; 0 for the length of the request.

    Args:
        design: The design.
        point: The point.
    """
    return design.tokens if all(field.name not in ("steps", "epochs", "tokens") for field in design.fields) else 0


class _Planner:
    """Plans the runs of points, before any is trained.

    Args:
        base: The request of all trials.
        job: The job of the request, with the prepared data and the machine.
        shared: Whether the data are the same for all points; a point with data of its own is not planned.
    """

    def __init__(self, base: TrainConfig, job: TrainingJob, shared: bool) -> None:
        self.base, self.job, self.shared = base, job, shared

    def length(self, fields: Sequence[Field], point: Point, tokens: int) -> int:
        """Return the tokens of the run of a point, which takes as long as that of the request; 0 without a time.

        Raises:
            InputError: If the values cannot be trained.
        """
        config = with_point(self.base, point)
        try:
            refuse_impossible(config)
            if not self.shared or "base" in point:
                return tokens
            plan = self._plan(replace(config, tokens=tokens) if tokens else config)
        except InputError as error:
            raise InputError(f"--sweep {shown(fields, point)}: {error.message}", error.remedy) from error
        if not tokens:
            return 0
        first = self.job.plan
        ratio = plan.flops_per_token * cost_of_steps(config.technique)
        ratio /= first.flops_per_token * cost_of_steps(self.job.config.technique)
        return max(1, round(tokens / ratio / plan.batch_tokens)) * plan.batch_tokens

    def _plan(self, config: TrainConfig) -> Plan:
        job = self.job
        assert job.machine is not None
        model = job.base or draft_model(config, job.machine, job.dataset.bytes)
        learner = learner_of(config, model, job.dataset, job.task, job.plan.objective)
        return autoconfig(config, job.machine, learner, job.dataset, DistributedInfo(), job.plan.facts)


def default_fields(plan: Plan) -> list[Field]:
    """Return the fields of a sweep that names none: the learning rate that matters most, and the batch.

    Args:
        plan: The plan, whose own values are in the middle.
    """
    optimizer = plan.optimizer
    muon = optimizer.name == "muon"
    rate = optimizer.muon_lr if muon else optimizer.learning_rate
    name = "muon_lr" if muon else "learning_rate"
    rates = tuple(float(f"{rate * factor:.3g}") for factor in (1 / STEP, 1.0, STEP))
    rows = plan.global_batch_size
    batches = tuple(dict.fromkeys(count * plan.context for count in (max(1, rows // 2), rows, 2 * rows)))
    return [
        Field(("optimization", name), f"optimization.{name.replace('_', '-')}", "choice", rates),
        Field(("optimization", "batch_tokens"), "optimization.batch-tokens", "choice", batches),
    ]


@dataclass(frozen=True)
class _Times:
    """How the time of a sweep is divided.

    Attributes:
        budget: Seconds of the sweep.
        runs: How much it trains, in whole runs, one after another.
        starts: How often it starts or resumes a run, one after another.
    """

    budget: float
    runs: float
    starts: float

    def of_run(self, spent: float, start: float) -> float:
        """Return the seconds of the steps of one whole run.

        Args:
            spent: Seconds of the budget that are gone.
            start: Seconds that each start takes besides the steps.
        """
        return max(1.0, (_TRAINING * (self.budget - spent) - self.starts * start) / self.runs)


def _tokens_in_time(job: TrainingJob, times: _Times, began: float, start: float) -> int:
    """Time some steps, and return the tokens of a run with which all trials fit into the budget.

    Args:
        job: The job, before its first step.
        times: How the time is divided.
        began: When the command started.
        start: Seconds that each start of a trial takes before its first step.
    """
    left = times.of_run(time.monotonic() - began, start)
    job.plan, job.began = replace(job.plan, budget_seconds=left), time.monotonic()
    job.fit_to_budget()
    plan = job.plan
    measuring = _EVALUATION * _evaluated(plan, plan.tokens) * plan.probe["step_seconds"] / plan.batch_tokens
    share = min(1.0, times.of_run(time.monotonic() - began, start + measuring) / left)
    return max(1, round(share * plan.steps)) * plan.batch_tokens


def _evaluated(plan: Plan, tokens: int) -> int:
    """Return the tokens on which each trial of so many tokens is measured."""
    return max(_LEAST_EVALUATED, 2 * plan.context, round(_EVALUATED * tokens))


def _first(fields: Sequence[Field], points: Sequence[Point]) -> Point:
    return (
        points[0]
        if points
        else {field.name: field.at(0.5) if not field.is_finite else field.values[0] for field in fields}
    )


def _refuse_measure(measure: str | None, task: Task) -> None:
    known = METRICS[task.kind] if isinstance(task, LabelledTextTask) else ()
    if task.gives_likelihood:
        known = (
            "bits_per_byte",
            "loss",
            "perplexity",
            *(("bits_per_word",) if task.name == "language-modelling" else ()),
        )
    if measure is not None and known and measure not in known:
        raise InputError(f"--measure {measure} is no figure of {task.name}", f"choose one of {', '.join(known)}")


def _told(field: Field) -> str:
    values = ", ".join(f"{value:g}" for value in field.values)
    return f"{field.flag} {values}"


def _tell(design: Design, plan: Plan) -> None:
    """Say how much will be trained."""
    count, tokens = len(design.points) or TRIALS, design.tokens or plan.tokens
    seeds = f" with {counted(len(design.seeds), 'seed')}" if len(design.seeds) > 1 else ""
    step = plan.probe.get("step_seconds") if design.tokens else None
    seconds = None if step is None else tokens / plan.batch_tokens * step
    long = "" if seconds is None else f", about {show_duration(seconds)}"
    text = f"{counted(count, 'point')}{seeds}; a whole run has {show_count(tokens)} tokens{long}"
    if len(design.rungs) > 1:
        text += f"; pauses at {', '.join(f'1/{round(1 / share)}' for share in design.rungs[:-1])} of it"
    log(text)
    if seconds is not None and seconds < _SHORT:
        log(
            f"warning: {show_duration(seconds)} is little for a run, and what is best in it need not be best in a "
            "longer one; a longer --budget or fewer --trials help"
        )

"""The pilot: a share of the budget is spent on small runs on the text, to which the scaling law is fitted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lavra.config.planning import PlanRequest
from lavra.config.training import ModelConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.data.token_store.prepare import open_prepared
from lavra.evaluation.documents import documents_of_store
from lavra.evaluation.likelihood import likelihood
from lavra.planning.forecast import PlanReport
from lavra.planning.scaling_law.builtin import scaling_law_for
from lavra.planning.scaling_law.law import Observation, Prior, ScalingLaw, fit_scaling_law
from lavra.planning.scaling_law.past_runs import load_calibration, observations_of
from lavra.workflows.datasets.text import data_folder, is_prepared, prepare_as_asked, request_of
from lavra.workflows.models.open import open_model
from lavra.workflows.planning.forecast import forecast_of
from lavra.workflows.training.train import train

_LEAST_SECONDS = 20.0
"""Shortest run of a pilot in seconds, because start-up, timed steps and evaluation take some seconds of each."""

_MOST_RUNS = 9
"""Most runs of a pilot."""

_DEVIATIONS = (0.03, 0.05, 0.01, 0.05, 0.01, 0.03)
"""Standard deviations of the prior, relative to the built-in law at the level of this text: of the irreducible loss, of
the coefficient and the exponent of the model size, of those of the data size, and of the gain of the decay."""

_LEVELS = (0.2, 5.0)
"""Range of the factor that brings the built-in law to the level of the text, and the steps of bisection."""
_HALVINGS = 24


@dataclass(frozen=True)
class Rung:
    """One small run of a pilot.

    Attributes:
        depth: Number of blocks of the model.
        width: Width of the model.
        seconds: Time budget of the run.
        seed: Seed of the run.
    """

    depth: int
    width: int
    seconds: float
    seed: int


def parse_share(text: str) -> float:
    """Return the share that is written as `5%` or `0.05`.

    Args:
        text: The share as a person writes it.

    Returns:
        A number between 0 and 1.

    Raises:
        InputError: If the text is not a share between 0 and 1.

    Examples:
        >>> parse_share("5%"), parse_share("0.2")
        (0.05, 0.2)
    """
    written = text.strip()
    try:
        share = float(written.removesuffix("%")) / (100.0 if written.endswith("%") else 1.0)
    except ValueError:
        share = 0.0
    if not 0.0 < share < 1.0:
        raise InputError(f"{text!r} is not a share of a budget", "write it like 5% or 0.05")
    return share


def ladder(depth: int, width: int, seconds: float, seed: int = 0) -> list[Rung]:
    """Return the small runs of a pilot: several sizes below the planned one, each with a long and a short run.

    The remaining time repeats the smallest run with other seeds, which separates the noise between runs from the law.

    Args:
        depth: Number of blocks of the planned model.
        width: Width of the planned model.
        seconds: Time of all runs together.
        seed: Seed of the runs; repetitions have the following ones.

    Returns:
        At most nine runs.

    Raises:
        InputError: If the time is too short for three runs.
    """
    count = min(_MOST_RUNS, int(seconds / _LEAST_SECONDS))
    if count < 3:
        raise InputError(
            f"{show_duration(seconds)} is too short for a pilot, which needs at least three runs of "
            f"{_LEAST_SECONDS:.0f} s",
            "give a larger share (--pilot 20%), or plan for a longer budget",
        )
    shapes = list(dict.fromkeys(_shape(depth, width, share) for share in (0.25, 0.5, 0.75)))
    wanted = [(shape, weight) for weight in (2.0, 1.0) for shape in shapes]
    chosen = [(*pair, seed) for pair in wanted[:count]]
    chosen += [(shapes[0], 1.0, seed + extra) for extra in range(1, count - len(chosen) + 1)]
    total = sum(weight for _, weight, _ in chosen)
    return [Rung(*shape, seconds * weight / total, luck) for shape, weight, luck in chosen]


def _shape(depth: int, width: int, share: float) -> tuple[int, int]:
    wide = max(32, round(width * share / 32) * 32)
    return max(2, round(depth * share**0.5)), wide


def piloted(request: PlanRequest, plan_report: PlanReport) -> PlanReport:
    """Return the forecast of a plan with the loss by a law that is fitted to small runs on the text.

    Args:
        request: The request of the plan, with the share of the budget for the pilot.
        plan_report: The forecast without a pilot.

    Raises:
        InputError: If there is no text, the hardware is not this machine, or the time is too short.
    """
    assert request.pilot is not None
    if not request.data or not plan_report.hardware.here or plan_report.text is None or not plan_report.model.depth:
        raise InputError("a pilot trains small runs on your text, on this machine", "give DATA, without --hardware")
    rungs = ladder(
        plan_report.model.depth,
        plan_report.model.width,
        plan_report.cost.seconds * parse_share(request.pilot),
        request.seed,
    )
    log(f"pilot: {counted(len(rungs), 'run')}, {show_duration(sum(rung.seconds for rung in rungs))} in total")
    with scratch_folder() as folder:
        observations = run_ladder(request, plan_report, rungs, Path(folder))
    law = pilot_law(observations, plan_report.text.compressed)
    assert plan_report.forecast is not None
    forecast = forecast_of(
        plan_report.model.matrix_parameters,
        plan_report.tokens,
        plan_report.text,
        load_calibration(),
        law,
        plan_report.forecast.start,
        plan_report.epochs,
    )
    return replace(plan_report, forecast=forecast)


def run_ladder(
    request: PlanRequest,
    plan_report: PlanReport,
    rungs: list[Rung],
    folder: Path,
    trained: Callable[[TrainConfig], RunFolder] = train,
) -> list[Observation]:
    """Prepare the text once, train each small run, and return the observations to which the law is fitted.

    Args:
        request: The request of the plan, which says how the text is read.
        plan_report: The forecast, which gives vocabulary and context length.
        rungs: The runs.
        folder: The folder for the text and the runs; a text that is there already is not prepared again.
        trained: The function that trains one run.

    Returns:
        The losses on the way and at the end of each run.
    """
    data = request.data
    if not is_prepared(data):
        if not (folder / "text").exists():
            prepare_as_asked(data, folder / "text", request.text, vocabulary_size=plan_report.model.vocabulary)
        data = (str(folder / "text"),)
    runs: list[RunFolder] = []
    for number, rung in enumerate(rungs):
        config = TrainConfig(
            data=data,
            budget=rung.seconds,
            out=str(folder / f"run-{number}"),
            force=True,
            seed=rung.seed,
            check=False,
            samples=0,
            keep_checkpoints=1,
            text=request.text,
            model=ModelConfig(
                depth=rung.depth,
                width=rung.width,
                heads=max(1, rung.width // 64),
                context=plan_report.flops.context,
            ),
            machine=replace(request.machine, micro_batch_size=None),
        )
        runs.append(trained(config))
    ends = measured_alike(runs)
    return [seen for run, end in zip(runs, ends, strict=True) for seen in observations_of(run, end)]


def measured_alike(runs: Sequence[RunFolder]) -> list[float]:
    """Return the bits per byte of runs on the same validation documents, as many as any of them had time for.

    Each run by itself measures on as many documents as its time allows. Documents differ more from each other than
    models do, so figures on different documents could not be compared.

    Args:
        runs: The finished runs.

    Returns:
        One number for each run.
    """
    most = max(run.plan["evaluation_tokens"] for run in runs)
    found = []
    for run in runs:
        opened = open_model(str(run.path))
        store = open_prepared(data_folder(request_of(run), run.path)).validation
        documents = documents_of_store(store, opened.tokenizer).sample(most)
        found.append(likelihood(opened.model, documents).total.bits_per_byte.value)
    return found


def pilot_law(observations: list[Observation], compressed: float | None) -> ScalingLaw:
    """Fit the scaling law to the runs of a pilot.

    The level of the built-in law is fitted first, that is, how hard the text is, and then the other constants within a
    narrow prior. The prior is narrow because the built-in law was fitted to longer runs than those of a pilot.

    Args:
        observations: The losses of the runs.
        compressed: Bits per byte of the text compressed by xz, from which the built-in law starts; None if not known.

    Returns:
        The law.
    """
    law = scaling_law_for(compressed)
    law = law.shifted(_level(observations, law))
    runs = len({seen.run for seen in observations})
    return fit_scaling_law(
        observations, prior=Prior(law.samples[0], _DEVIATIONS), origin=f"a pilot of {runs} runs on this text"
    )


def _level(observations: list[Observation], law: ScalingLaw) -> float:
    """Return the factor on the law at which half of the runs end above it and half below it, by bisection."""
    ends = [seen for seen in observations if seen.cooled]

    def above(factor: float) -> float:
        shifted = law.shifted(factor)
        return statistics.median(
            shifted.loss(seen.parameters, seen.text_bytes, seen.start) / seen.bits_per_byte for seen in ends
        )

    low, high = _LEVELS
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if above(middle) > 1.0 else (middle, high)
    return math.sqrt(low * high)

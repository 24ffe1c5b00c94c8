"""The loss that a plan forecasts for a model trained from scratch, and the notes beside its figures."""

from __future__ import annotations

import math
from pathlib import Path

from lavra.config.planning import PlanRequest
from lavra.core.units import counted, show_duration, show_size
from lavra.models.spec import DecoderSpec
from lavra.planning.budget import PARAMETERS_PER_BYTE, effective_tokens, repetition_note, vocabulary_note
from lavra.planning.corpus_stats import CorpusStats
from lavra.planning.forecast import Forecast, PlanReport
from lavra.planning.machine.flops import FlopCount
from lavra.planning.scaling_law.builtin import GAIN_OF_BIGRAM_EMBEDDING, GAIN_OF_NGRAM_COPY, scaling_law_for, start_for
from lavra.planning.scaling_law.law import Interval, ScalingLaw
from lavra.planning.scaling_law.past_runs import Calibration
from lavra.workflows.models.ngram_init import PAIRS_UNTIL, contexts_worth_counting


def expected_start(model: DecoderSpec | Path, tokens: float, flops: FlopCount, text: CorpusStats | None) -> float:
    """Return the bits per byte that a model is expected to have before its first step, after a warm start.

    Args:
        model: The shape of the decoder, or the Hugging Face folder of another model, which has no warm start.
        tokens: Length of the run in tokens.
        flops: FLOPs of a training step for each token.
        text: The statistics of the text; None where the text is not known.

    Returns:
        The bits per byte; infinity without a warm start.
    """
    contexts = contexts_worth_counting(model, tokens, flops.exact) if isinstance(model, DecoderSpec) else 0
    if not contexts or isinstance(model, Path):
        return math.inf
    return start_for(model.vocabulary, model.width, contexts, text.compressed if text else None)


def forecast_of(
    parameters: float,
    tokens: float,
    text: CorpusStats | None,
    calibration: Calibration,
    law: ScalingLaw | None = None,
    start: float = math.inf,
    epochs: float | None = None,
) -> Forecast:
    """Forecast the validation loss of a model trained from scratch, by a scaling law.

    Args:
        parameters: Parameters of the model in matrix products.
        tokens: Length of the run in tokens.
        text: The statistics of the text; None where the text is not known.
        calibration: The constants that were fitted to past runs.
        law: A law fitted to a pilot; the built-in law if None.
        start: Bits per byte before the first step; infinity without a warm start.
        epochs: Passes over the training text in these tokens, of which repeated ones count for less; None where the
            text is not known.

    Returns:
        The forecast, with a 90 % interval.
    """
    per_token = text.bytes_per_token if text else 4.0
    unique = tokens / epochs if epochs else math.inf
    read = effective_tokens(tokens, unique)
    plain = scaling_law_for(text.compressed if text else None)
    chosen = law or scaling_law_for(text.compressed if text else None, calibration.law_factor)
    found: Interval = chosen.forecast(parameters, read * per_token, start)
    if text is not None:  # an untrained model gives every token the same probability: no forecast is worse than that
        most = math.log2(text.vocabulary) / per_token
        found = Interval(min(found.value, most), min(found.low, most), min(found.high, most))
    return Forecast(
        found,
        text.bytes_per_token if text else None,
        plain.loss(parameters, read * per_token, start),
        chosen.origin,
        start=start,
        beyond=chosen.beyond(parameters, read * per_token),
        all_new=chosen.loss(parameters, tokens * per_token, start) if tokens > unique else None,
        half_time=chosen.loss(parameters, effective_tokens(tokens / 2, unique) * per_token, start),
    )


COMFORTABLE_BUDGET = 30.0
"""Seconds of a budget from which on start-up, timed steps and the final evaluation are a small part of it."""

_FEW_STEPS = 50
"""Fewer steps than these are called few."""

_PAIRS = 65536
"""Rows of a bigram embedding that suits short runs, and bytes of memory for each of its weights: the fp32 master
weight, its gradient, two averages of the optimiser (4 bytes each), and a copy in 16 bits."""
_BYTES_OF_A_WEIGHT = 18


def _cost_of_repetition(plan_report: PlanReport) -> str:
    """Return what the repeated text costs in bits per byte, and what would use the time better, in words.

    The plan chooses the size of the model and has taken the largest that suits the text: it advises no other.
    """
    forecast, model, text = plan_report.forecast, plan_report.model, plan_report.text
    words = ""
    if forecast is not None and forecast.all_new is not None and forecast.half_time is not None:
        words = (
            f" (as much new text would give {forecast.all_new:.3f} bits per byte, and half of the time on this text "
            f"{forecast.half_time:.3f})"
        )
    better = "more text, or a shorter run"
    if not model.chosen and text is not None and model.matrix_parameters < PARAMETERS_PER_BYTE * text.text_bytes:
        better = "a larger model, more text, or a shorter run"
    return f"{words}; {better}, uses the time better"


def notes_on(request: PlanRequest, plan_report: PlanReport) -> list[str]:
    """Return the warnings and hints that belong to a forecast.

    Args:
        request: The request of the plan.
        plan_report: The forecast.

    Returns:
        Notes of one or two sentences each.
    """
    notes: list[str] = []
    text, model = plan_report.text, plan_report.model
    if plan_report.epochs is not None and (note := repetition_note(plan_report.epochs)):
        notes.append(f"{note}{_cost_of_repetition(plan_report)}")
    if text is not None and request.base is None and (note := vocabulary_note(model.vocabulary, text.text_bytes)):
        notes.append(note)
    if request.budget is not None and request.budget < COMFORTABLE_BUDGET:
        notes.append(
            f"start-up, timed steps and evaluation take a large part of a budget of {show_duration(request.budget)}; "
            f"from {COMFORTABLE_BUDGET:.0f} s on, most of it is training"
        )
    if not plan_report.memory.fits:
        remedies = "; ".join(plan_report.memory.would_fit) or "only a smaller model: see --model"
        notes.append(f"this does not fit into the memory of {plan_report.hardware.name}. What would fit: {remedies}")
    if plan_report.steps < _FEW_STEPS and plan_report.memory.fits:
        better = "a longer run" if model.chosen else "a smaller model, or fewer tokens in each update,"
        notes.append(
            f"the run has only {counted(plan_report.steps, 'step')}: {better} would learn more"
            + ("" if model.chosen else " in this time")
        )
    forecast = plan_report.forecast
    if (
        forecast is not None
        and request.base is None
        and model.chosen
        and plan_report.tokens <= PAIRS_UNTIL * model.vocabulary
    ):
        memory = show_size(_PAIRS * model.width * _BYTES_OF_A_WEIGHT)
        notes.append(
            f"lavra train --model.ngram-copy, which copies from n-grams earlier in the document, would take about "
            f"{1 - GAIN_OF_NGRAM_COPY:.0%} off the bits per byte, and --model.bigram-embedding {_PAIRS}, a "
            f"bigram embedding, "
            f"{1 - GAIN_OF_BIGRAM_EMBEDDING:.0%} more, for {memory} of memory; no other program reads such models"
        )
    return notes

"""The loss that a plan expects of a model that begins from nothing."""

from __future__ import annotations

import math
from pathlib import Path

from lavra.models.spec import DecoderSpec
from lavra.planning.builtin_law import law_for, start_for
from lavra.planning.calibration import Calibration
from lavra.planning.flop_count import FlopCount
from lavra.planning.law import Interval, Law
from lavra.planning.outlook import Forecast
from lavra.planning.repetition import effective_tokens
from lavra.planning.survey import Survey
from lavra.recipes.beginning import contexts_worth_counting


def expected_start(model: DecoderSpec | Path, tokens: float, flops: FlopCount, text: Survey | None) -> float:
    """Return the bits per byte that the model will have before its first step, infinite where it knows nothing."""
    contexts = contexts_worth_counting(model, tokens, flops.exact) if isinstance(model, DecoderSpec) else 0
    if not contexts or isinstance(model, Path):
        return math.inf
    return start_for(model.vocabulary, model.width, contexts, text.compressed if text else None)


def forecast_of(
    parameters: float,
    tokens: float,
    text: Survey | None,
    calibration: Calibration,
    law: Law | None = None,
    start: float = math.inf,
) -> Forecast:
    """Return the loss to expect of a model with so many parameters in matrix products.

    Args:
        parameters: of the model.
        tokens: that it is trained on.
        text: what it learns from; None for any text.
        calibration: of past runs.
        law: fitted to a pilot; the built-in law by default.
        start: bits per byte before the first step, of a run that begins from counts of pairs of tokens.
    """
    per_token = text.bytes_per_token if text else 4.0
    read = effective_tokens(tokens, text.tokens.value) if text else tokens
    plain = law_for(text.compressed if text else None)
    chosen = law or law_for(text.compressed if text else None, calibration.law_factor)
    found: Interval = chosen.forecast(parameters, read * per_token, start)
    if text is not None:  # a model that has learned nothing gives every token the same share
        most = math.log2(text.vocabulary) / per_token
        found = Interval(min(found.value, most), min(found.low, most), min(found.high, most))
    return Forecast(
        found,
        text.bytes_per_token if text else None,
        plain.loss(parameters, read * per_token, start),
        chosen.origin,
        start=start,
    )

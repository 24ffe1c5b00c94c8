"""Curves of a run over the tokens trained on: loss with its forecast, learning rate, gradient norm and speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from lavra.core.units import show_duration
from lavra.reports.page import Section
from lavra.reports.plots import Axis, Series, line_plot
from lavra.reports.run_files import RunFiles

Lines = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float | None]]

TOKENS = Axis("tokens trained on")
TIME = Axis("time of training steps", show_duration)
SPEED = Axis("tokens per second")
LOSS = Axis("nats per token", "{:.4g}".format)
_LR = Axis("learning rate of AdamW", "{:.3g}".format)
_NORM = Axis("gradient norm, logarithmic", "{:.3g}".format, logarithmic=True)


def curves_section(run: RunFiles) -> Section:
    """Return the section of the curves, in which a red tick at the bottom marks a skipped step."""
    training, validation = run.training, run.validation
    skipped = [line for line in training if line.get("skipped")]
    marks = [float(line.get("tokens", 0)) for line in skipped]
    losses = [
        Series("training", points(training, "loss"), faint=True),
        Series("validation", points(validation, "loss"), dots=True),
        *_forecast(run),
    ]
    plots = [
        line_plot("Loss", losses, TOKENS, LOSS, marks=marks),
        line_plot("Learning rate", [Series("rate", points(training, "learning_rate"))], TOKENS, _LR, marks=marks),
        line_plot("Gradient norm", [Series("norm", points(training, "gradient_norm"))], TOKENS, _NORM, marks=marks),
        line_plot("Speed", [Series("speed", points(training, "tokens_per_second"))], TOKENS, SPEED, marks=marks),
    ]
    return Section(
        "Curves",
        pictures=[plot for plot in plots if plot],
        note="Red ticks: skipped steps." if skipped else "",
    )


def _forecast(run: RunFiles) -> list[Series]:
    """Return the loss that the plan foresaw at the end of the run, as a series of one dot."""
    loss, tokens = (run.plan.get("forecast") or {}).get("loss"), run.plan.get("tokens")
    if not isinstance(loss, int | float) or not isinstance(tokens, int | float):
        return []
    return [Series("forecast for the end", [(float(tokens), float(loss))], dots=True)]


def tokens_of(line: Mapping[str, Any]) -> float | None:
    """Return the number of tokens trained on up to a record of the metrics; None if it is not recorded."""
    return line.get("tokens")


def timed(clock: Mapping[int, float]) -> Any:
    """Return a function that gives the time of a record of the metrics by its step, or None for an unknown step.

    Args:
        clock: Seconds of training by step, see `step_seconds`.
    """
    return lambda line: 0.0 if line.get("step") == 0 else clock.get(line.get("step", -1))


def points(lines: Lines, name: str, place: Any = tokens_of) -> Points:
    """Return the points of a curve: (position, value) of each record of the metrics.

    Records without a position are omitted; records without a value leave a gap in the curve.

    Args:
        lines: Records of the metrics.
        name: Name of the metric.
        place: Function that returns the horizontal position of a record; by default its number of tokens.

    Examples:
        >>> points([{"tokens": 100, "loss": 4.0}, {"tokens": 200}], "loss")
        [(100.0, 4.0), (200.0, None)]
    """
    found: Points = []
    for line in lines:
        across, value = place(line), line.get(name)
        if across is not None:
            found.append((float(across), float(value) if isinstance(value, int | float) else None))
    return found


def step_seconds(training: Lines) -> dict[int, float]:
    """Return the seconds of training up to each logged step: the sum of tokens divided by the logged speed.

    The logged speed is an average over up to 31 of the last steps. It does not include validations, checkpoints, and
    the time between an interruption and the resume.

    Args:
        training: Records of the training metrics, in order.
    """
    return dict(zip((line.get("step", 0) for line in training), accumulate(_lasted(training)), strict=True))


def _lasted(training: Lines) -> Iterable[float]:
    before = 0.0
    for line in training:
        tokens, speed = float(line.get("tokens") or before), line.get("tokens_per_second")
        yield max(0.0, tokens - before) / speed if speed else 0.0
        before = tokens

"""The curves of a run: loss, learning rate, gradient norm and speed, by tokens and by time."""

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
_RATE = Axis("AdamW's rate", "{:.3g}".format)
_NORM = Axis("norm, logarithmic", "{:.3g}".format, logarithmic=True)


def curves_section(run: RunFiles) -> Section:
    """Return the plots; a red tick at the bottom is a step that was skipped."""
    training, validation = run.training, run.validation
    clock = step_seconds(training)
    skipped = [line for line in training if line.get("skipped")]
    marks = [float(line.get("tokens", 0)) for line in skipped]
    moments = [clock[line["step"]] for line in skipped if line.get("step") in clock]
    plots = [
        line_plot("Loss by tokens", _losses(training, validation, tokens_of), TOKENS, LOSS, marks=marks),
        line_plot("Loss by time", _losses(training, validation, timed(clock)), TIME, LOSS, marks=moments),
        line_plot("Learning rate", [Series("rate", points(training, "learning_rate"))], TOKENS, _RATE, marks=marks),
        line_plot("Gradient norm", [Series("norm", points(training, "gradient_norm"))], TOKENS, _NORM, marks=marks),
        line_plot("Speed", [Series("speed", points(training, "tokens_per_second"))], TOKENS, SPEED, marks=marks),
    ]
    note = "Time is reckoned from the logged speeds; it leaves out validations and checkpoints."
    return Section(
        "Curves",
        pictures=[plot for plot in plots if plot],
        note=note + (" Red ticks: skipped steps." if skipped else ""),
    )


def _losses(training: Lines, validation: Lines, place: Any) -> list[Series]:
    return [
        Series("training", points(training, "loss", place), faint=True),
        Series("validation", points(validation, "loss", place), dots=True),
    ]


def tokens_of(line: Mapping[str, Any]) -> float | None:
    """Return the tokens that had been trained on."""
    return line.get("tokens")


def timed(clock: Mapping[int, float]) -> Any:
    """Return a function from a line of the metrics to its time, by its step; None for a step that is not known."""
    return lambda line: 0.0 if line.get("step") == 0 else clock.get(line.get("step", -1))


def points(lines: Lines, name: str, place: Any = tokens_of) -> Points:
    """Return (place, value) of each line; those without a place are left out, those without a value leave a gap."""
    found: Points = []
    for line in lines:
        across, value = place(line), line.get(name)
        if across is not None:
            found.append((float(across), float(value) if isinstance(value, int | float) else None))
    return found


def step_seconds(training: Lines) -> dict[int, float]:
    """Return the seconds of training steps up to each logged step: tokens over the speed that was logged with them.

    The logged speed is that of the last steps, up to 32 of them, and knows nothing of validations, checkpoints and
    the time between a stop and a resume.
    """
    return dict(zip((line.get("step", 0) for line in training), accumulate(_lasted(training)), strict=True))


def _lasted(training: Lines) -> Iterable[float]:
    before = 0.0
    for line in training:
        tokens, speed = float(line.get("tokens") or before), line.get("tokens_per_second")
        yield max(0.0, tokens - before) / speed if speed else 0.0
        before = tokens

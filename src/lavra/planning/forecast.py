"""The forecast of a run, which `lavra plan` makes: its time, cost, memory and loss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lavra.planning.corpus_stats import CorpusStats
from lavra.planning.machine.flops import FlopCount
from lavra.planning.machine.hardware import Hardware
from lavra.planning.machine.memory import MemoryEstimate
from lavra.planning.scaling_law.law import FAR, Interval
from lavra.training.plan import Plan

# Time, energy and money, from the speed of training.

_JOULES_PER_KILOWATT_HOUR = 3.6e6


@dataclass(frozen=True)
class Speed:
    """Expected training speed of a model.

    Attributes:
        tokens_per_second: Expected speed in tokens per second.
        peak_tokens_per_second: Speed if the hardware ran at its peak for all floating-point operations of the model.
        efficiency: Ratio of the two (model FLOPs utilization, MFU).
        source: Source of the figure, in words.

    Examples:
        >>> Speed.from_efficiency(1e12, 1e6, 0.5, "assumed").tokens_per_second
        500000.0
    """

    tokens_per_second: float
    peak_tokens_per_second: float
    efficiency: float
    source: str

    @classmethod
    def from_efficiency(cls, peak_flops: float, flops_per_token: float, efficiency: float, source: str) -> Speed:
        """Return the speed at a share of the peak of the hardware.

        Args:
            peak_flops: Peak speed of the hardware in FLOP/s.
            flops_per_token: Floating-point operations per token of a training step.
            efficiency: Share of the peak, from 0 to 1.
            source: Source of that share, in words.
        """
        peak = peak_flops / flops_per_token
        return cls(peak * efficiency, peak, efficiency, source)

    @classmethod
    def from_probe(cls, tokens_per_second: float, peak_flops: float, flops_per_token: float) -> Speed:
        """Return the speed that timed steps measured.

        Args:
            tokens_per_second: Measured speed.
            peak_flops: Peak speed of the hardware in FLOP/s.
            flops_per_token: Floating-point operations per token of a training step.
        """
        peak = peak_flops / flops_per_token
        return cls(tokens_per_second, peak, tokens_per_second / peak, "measured by real steps of this model")

    def to_json(self) -> dict[str, Any]:
        """Return the speed as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Cost:
    """Cost of a run.

    Attributes:
        seconds: Time of training in seconds, including validations and checkpoints.
        kilowatt_hours: Energy of the accelerator in kWh; None if its power is not known.
        money: Price in the currency of the given price; None without one.
    """

    seconds: float
    kilowatt_hours: float | None
    money: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the cost as JSON values."""
        return asdict(self)


def cost_of(seconds: float, *, watts: float | None, price_per_hour: float | None) -> Cost:
    """Return the cost of a run.

    Args:
        seconds: Time of training in seconds.
        watts: Power of the accelerator in watts; None if it is not known.
        price_per_hour: Price of an hour, in any currency; None without one.

    Examples:
        >>> cost_of(7200, watts=500, price_per_hour=2.5)
        Cost(seconds=7200, kilowatt_hours=1.0, money=5.0)
    """
    energy = None if watts is None else watts * seconds / _JOULES_PER_KILOWATT_HOUR
    money = None if price_per_hour is None else price_per_hour * seconds / 3600
    return Cost(seconds, energy, money)


# The parts of the forecast, and the forecast as a whole.


@dataclass(frozen=True)
class Shape:
    """Shape of the model that is planned for.

    Attributes:
        name: Name as requested, or a name of the shape that the plan chose.
        parameters: Number of parameters; shared ones count once.
        matrix_parameters: Number of parameters that take part in matrix products, including the head.
        vocabulary: Vocabulary size.
        context: Length of a sequence in tokens.
        depth: Number of blocks; 0 if the configuration of the model does not state it.
        width: Width of the residual stream; 0 if the configuration of the model does not state it.
        chosen: Whether the plan chose the shape.
    """

    name: str
    parameters: int
    matrix_parameters: float
    vocabulary: int
    context: int
    depth: int
    width: int
    chosen: bool


@dataclass(frozen=True)
class MemoryForecast:
    """Memory of a training step for several sizes of the micro-batch.

    Attributes:
        available: Memory of the hardware that a process can have, in bytes.
        estimates: Estimates for micro-batches of 1, 2, 4, … sequences up to the first that does not fit, and for the
            requested size.
        micro_batch_size: Requested size of the micro-batch, or the largest that fits; None if not even one sequence
            fits.
        fits: Whether the micro-batch of that size fits.
        plain: Estimate for the same step with all logits held at once, as plain training loops do.
        would_fit: Changes that would make training fit, in words; empty if it fits.
    """

    available: float
    estimates: tuple[MemoryEstimate, ...]
    micro_batch_size: int | None
    fits: bool
    plain: MemoryEstimate | None
    would_fit: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the memory as JSON values; sizes are in bytes."""
        return {
            "available": self.available,
            "micro_batch_size": self.micro_batch_size,
            "fits": self.fits,
            "estimates": [estimate.to_json() for estimate in self.estimates],
            "plain_loop": None if self.plain is None else self.plain.to_json(),
            "would_fit": list(self.would_fit),
        }


@dataclass(frozen=True)
class Forecast:
    """Forecast of the validation loss of a run.

    Attributes:
        bits_per_byte: Expected loss in bits per byte, with its 90 % interval.
        bytes_per_token: Mean number of bytes per token, for the loss in nats per token; None without a text.
        law_bits_per_byte: Forecast of the built-in scaling law alone, without corrections by past runs or a pilot; None
            for fine-tuning, which that law does not cover.
        origin: What the forecast is based on, in words.
        before: Bits per byte of a pretrained model before its first step; None for training from scratch.
        curve: For fine-tuning, (tokens of a subset, bits per byte after training on it) from pilot runs.
        start: Bits per byte before the first step of a run with a warm start from bigram counts; infinite without one.
        beyond: How many times the compute of the run is that of the largest run that the law was fitted to; at least 1.
        all_new: Expected bits per byte if no text were repeated; None where none is.
        half_time: Expected bits per byte after half of the tokens.
    """

    bits_per_byte: Interval
    bytes_per_token: float | None
    law_bits_per_byte: float | None
    origin: str
    before: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    start: float = math.inf
    beyond: float = 1.0
    all_new: float | None = None
    half_time: float | None = None

    @property
    def extrapolated(self) -> bool:
        """Whether the run lies far beyond the runs that the law was fitted to."""
        return self.beyond > FAR

    @property
    def loss(self) -> Interval | None:
        """Expected loss in nats per token, with its 90 % interval; None without a text."""
        return None if self.bytes_per_token is None else self.bits_per_byte.scaled(self.bytes_per_token * math.log(2))

    def to_json(self) -> dict[str, Any]:
        """Return the forecast of the loss as JSON values."""
        loss = self.loss
        return {
            "bits_per_byte": self.bits_per_byte.to_json(),
            "loss": None if loss is None else loss.to_json(),
            "law_bits_per_byte": self.law_bits_per_byte,
            "origin": self.origin,
            "before": self.before,
            "curve": [{"tokens": tokens, "bits_per_byte": bits} for tokens, bits in self.curve],
            "start_bits_per_byte": self.start if math.isfinite(self.start) else None,
            "extrapolated": self.extrapolated,
            "times_the_largest_run": self.beyond,
            "bits_per_byte_without_repetition": self.all_new,
            "bits_per_byte_in_half_the_time": self.half_time,
        }


@dataclass(frozen=True)
class PlanReport:
    """Report of a plan: the expected time, cost, memory and loss of a run.

    Attributes:
        hardware: Hardware that trains.
        model: Shape of the model.
        text: Statistics of the training text; None if only a number of tokens was given.
        tokens: Number of tokens to train on.
        epochs: Number of passes over the text; None without a text.
        worth: Number of epochs of new text that these epochs are worth; None without a text.
        flops: Floating-point operations per token.
        batch_tokens: Tokens of one optimiser step (the batch size in tokens).
        steps: Number of optimiser steps.
        speed: Expected speed, from the exact count of floating-point operations or from timed steps.
        cost: Cost of the run.
        rule: Expected speed by the rule of thumb 6·N, for comparison.
        rule_cost: Cost of the run by the rule of thumb 6·N, for comparison.
        memory: Memory of a training step.
        forecast: Forecast of the loss; None where there is none.
        notes: Warnings and explanations, a sentence or two each.
        preparation_seconds: Seconds before training: start-up, reading and tokenising the text; None for hardware other
            than this machine.
        plan: The plan of the run; None for a report that was made without one.
        no_forecast: Why there is no forecast of the loss, in words; None where there is one.
    """

    hardware: Hardware
    model: Shape
    text: CorpusStats | None
    tokens: float
    epochs: float | None
    worth: float | None
    flops: FlopCount
    batch_tokens: int
    steps: int
    speed: Speed
    cost: Cost
    rule: Speed
    rule_cost: Cost
    memory: MemoryForecast
    forecast: Forecast | None
    notes: tuple[str, ...] = field(default=())
    preparation_seconds: float | None = None
    plan: Plan | None = None
    no_forecast: str | None = None

    @property
    def seconds(self) -> float:
        """Expected seconds from the start of the command to its end; on this machine, a time budget is all of it."""
        if self.preparation_seconds is not None and self.plan is not None and self.plan.budget_seconds is not None:
            return self.plan.budget_seconds
        return self.cost.seconds + (self.preparation_seconds or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; sizes are in bytes and times in seconds."""
        return {
            "hardware": self.hardware.to_json(),
            "model": vars(self.model),
            "text": None if self.text is None else self.text.to_json(),
            "tokens": self.tokens,
            "epochs": self.epochs,
            "worth_epochs": self.worth,
            "batch_tokens": self.batch_tokens,
            "steps": self.steps,
            "flops_per_token": self.flops.to_json(),
            "speed": self.speed.to_json(),
            "cost": self.cost.to_json(),
            "preparation_seconds": self.preparation_seconds,
            "seconds": self.seconds,
            "six_n": {"speed": self.rule.to_json(), "cost": self.rule_cost.to_json()},
            "memory": self.memory.to_json(),
            "forecast": None if self.forecast is None else self.forecast.to_json(),
            "no_forecast": self.no_forecast,
            "plan": None if self.plan is None else self.plan.to_json(),
            "notes": list(self.notes),
        }

"""The outlook of a training: what `lavra plan` knows before anything is spent."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lavra.planning.corpus_stats import Survey
from lavra.planning.machine.flops import FlopCount
from lavra.planning.machine.hardware import Hardware
from lavra.planning.machine.memory import MemoryEstimate
from lavra.planning.scaling_law.law import Interval

# What training costs: time, energy, money, from how fast it goes.

_JOULES_PER_KILOWATT_HOUR = 3.6e6


@dataclass(frozen=True)
class Speed:
    """How fast a model trains.

    Attributes:
        tokens_per_second: expected.
        peak_tokens_per_second: if the hardware did nothing but this model's matrix products.
        efficiency: one over the other.
        source: where it is from, in words.
    """

    tokens_per_second: float
    peak_tokens_per_second: float
    efficiency: float
    source: str

    @classmethod
    def from_efficiency(cls, peak_flops: float, flops_per_token: float, efficiency: float, source: str) -> Speed:
        """Return the speed at a share of the hardware's peak."""
        peak = peak_flops / flops_per_token
        return cls(peak * efficiency, peak, efficiency, source)

    @classmethod
    def from_probe(cls, tokens_per_second: float, peak_flops: float, flops_per_token: float) -> Speed:
        """Return the speed that real steps had."""
        peak = peak_flops / flops_per_token
        return cls(tokens_per_second, peak, tokens_per_second / peak, "measured by real steps of this model")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes:
        seconds: of training, bookkeeping included.
        kilowatt_hours: that the accelerator draws; None when its watts are not known.
        money: in the currency of the price; None without a price.
    """

    seconds: float
    kilowatt_hours: float | None
    money: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def cost_of(seconds: float, *, watts: float | None, price_per_hour: float | None) -> Cost:
    """Return what so many seconds cost at that power and price."""
    energy = None if watts is None else watts * seconds / _JOULES_PER_KILOWATT_HOUR
    money = None if price_per_hour is None else price_per_hour * seconds / 3600
    return Cost(seconds, energy, money)


# The outlook of a training: what `lavra plan` knows before anything is spent.


@dataclass(frozen=True)
class Shape:
    """The model that is planned for.

    Attributes:
        name: as asked for, or what the plan chose.
        parameters: all of them, shared ones once.
        matrix_parameters: those in matrix products, the head's included.
        vocabulary: token ids.
        context: tokens of a window.
        depth: blocks; 0 where a configuration does not say.
        width: of the residual stream; 0 likewise.
        chosen: whether the plan chose it.
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
class MemoryOutlook:
    """The memory of a step for several micro-batches.

    Attributes:
        available: bytes of the hardware that a process can have.
        estimates: for micro-batches of 1, 2, 4, … rows, up to the first that does not fit, and the asked one.
        micro_rows: the asked micro-batch, else the largest that fits; None if not even one row does.
        fits: whether that one fits.
        plain: the same step with all logits held at once, as plain loops do.
        would_fit: what would fit, in words, where it does not.
    """

    available: float
    estimates: tuple[MemoryEstimate, ...]
    micro_rows: int | None
    fits: bool
    plain: MemoryEstimate | None
    would_fit: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "available": self.available,
            "micro_rows": self.micro_rows,
            "fits": self.fits,
            "estimates": [estimate.to_json() for estimate in self.estimates],
            "plain_loop": None if self.plain is None else self.plain.to_json(),
            "would_fit": list(self.would_fit),
        }


@dataclass(frozen=True)
class Forecast:
    """The loss to expect on held-out text of the same kind.

    Attributes:
        bits_per_byte: with the interval of nine in ten.
        bytes_per_token: by which it becomes nats per token; None without a text.
        law_bits_per_byte: what the built-in law says of it before any correction by past runs or a pilot; None for a
            model that is adapted, of which it knows nothing.
        origin: what the law was fitted to.
        before: bits per byte of a model that is adapted, before its first step.
        curve: (tokens of a subset, bits per byte after learning from it), of the pilot of a model that is adapted.
        start: bits per byte before the first step, of a run that begins from counts of pairs of tokens; else infinite.
    """

    bits_per_byte: Interval
    bytes_per_token: float | None
    law_bits_per_byte: float | None
    origin: str
    before: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    start: float = math.inf

    @property
    def loss(self) -> Interval | None:
        """Nats per token."""
        return None if self.bytes_per_token is None else self.bits_per_byte.scaled(self.bytes_per_token * math.log(2))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        loss = self.loss
        return {
            "bits_per_byte": self.bits_per_byte.to_json(),
            "loss": None if loss is None else loss.to_json(),
            "law_bits_per_byte": self.law_bits_per_byte,
            "origin": self.origin,
            "before": self.before,
            "curve": [{"tokens": tokens, "bits_per_byte": bits} for tokens, bits in self.curve],
            "start_bits_per_byte": self.start if math.isfinite(self.start) else None,
        }


@dataclass(frozen=True)
class Outlook:
    """What a training will cost and bring.

    Attributes:
        hardware: what it runs on.
        model: what is trained.
        text: what it learns from; None when only a number of tokens was given.
        tokens: that are trained on.
        epochs: passes over the text; None without one.
        worth: how many passes over new text those are worth; None without a text.
        flops: of a token.
        tokens_per_step: of one optimiser step.
        steps: optimiser steps.
        speed: expected, by the exact count of FLOPs or by a probe.
        cost: of the whole training.
        rule: the speed by the rule of 6·N, for comparison.
        rule_cost: likewise.
        memory: of a step.
        forecast: of the loss; None for a model that is adapted, as long as no pilot has looked at it.
        notes: warnings and explanations, a sentence or two each.
        preparation_seconds: before the training: start-up, reading and tokenising the text; None for other hardware.
    """

    hardware: Hardware
    model: Shape
    text: Survey | None
    tokens: float
    epochs: float | None
    worth: float | None
    flops: FlopCount
    tokens_per_step: int
    steps: int
    speed: Speed
    cost: Cost
    rule: Speed
    rule_cost: Cost
    memory: MemoryOutlook
    forecast: Forecast | None
    notes: tuple[str, ...] = field(default=())
    preparation_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """From the start of the program to its end."""
        return self.cost.seconds + (self.preparation_seconds or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; sizes in bytes, times in seconds."""
        return {
            "hardware": self.hardware.to_json(),
            "model": vars(self.model),
            "text": None if self.text is None else self.text.to_json(),
            "tokens": self.tokens,
            "epochs": self.epochs,
            "worth_epochs": self.worth,
            "tokens_per_step": self.tokens_per_step,
            "steps": self.steps,
            "flops_per_token": self.flops.to_json(),
            "speed": self.speed.to_json(),
            "cost": self.cost.to_json(),
            "preparation_seconds": self.preparation_seconds,
            "seconds": self.seconds,
            "six_n": {"speed": self.rule.to_json(), "cost": self.rule_cost.to_json()},
            "memory": self.memory.to_json(),
            "forecast": None if self.forecast is None else self.forecast.to_json(),
            "notes": list(self.notes),
        }

"""What training costs: time, energy, money, from how fast it goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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

"""What hardware can do at most: the ceiling that every efficiency figure is quoted against, measured or by name."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lavra.planning.accelerators import accelerator
from lavra.planning.memory import memory_of
from lavra.training.devices import describe, synchronize
from lavra.training.precision import TYPES, Precision, choose_precision

_SIDES = {"cpu": 2048, "cuda": 8192, "mps": 4096}


def measure_matrix_peak(device: torch.device, precision: Precision, seconds: float = 1.0) -> float:
    """Return the FLOP/s of square matrix products on random data: the median of those that fit in `seconds`."""
    side = _SIDES.get(device.type, 2048)
    generator = torch.Generator(device="cpu").manual_seed(0)
    left = torch.randn(side, side, generator=generator, device="cpu").to(device, TYPES[precision])
    right = torch.randn(side, side, generator=generator, device="cpu").to(device, TYPES[precision])
    out = left @ right
    synchronize(device)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2.0 * side**3 / sorted(times)[len(times) // 2]


def measure_copy(device: torch.device, seconds: float = 0.3) -> float:
    """Return the bytes per second that a copy reads and writes: the median of those that fit in `seconds`."""
    size = 1 << (26 if device.type == "cpu" else 28)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2.0 * size / sorted(times)[len(times) // 2]


@dataclass(frozen=True)
class Hardware:
    """What a run is planned for.

    Attributes:
        name: as asked for.
        device: kind of device: `cpu`, `cuda` or `mps`.
        precision: to train in.
        peak_flops: of dense matrix products in that precision.
        memory: bytes that a process can have.
        bandwidth: of the memory in bytes per second.
        watts: that it draws at most; None where nobody knows.
        source: where the figures are from.
        here: whether it is this machine, so that real steps can be timed.
    """

    name: str
    device: str
    precision: Precision
    peak_flops: float
    memory: int
    bandwidth: float
    watts: float | None
    source: str
    here: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def named_hardware(name: str, precision: str = "auto") -> Hardware:
    """Return an accelerator of the table as hardware to plan for.

    Raises:
        InputError: if there is none of that name, or it does not compute in that precision.
    """
    found = accelerator(name)
    chosen: Any = found.precision(precision)
    return Hardware(
        found.name,
        "mps" if found.shared_memory else "cuda",
        chosen,
        found.peak[chosen],
        int(0.75 * found.memory) if found.shared_memory else found.memory,
        found.bandwidth,
        found.watts,
        found.source,
    )


def this_hardware(device: torch.device, precision: str = "auto") -> Hardware:
    """Return this machine, measured by matrix products and a copy.

    Raises:
        InputError: if it cannot compute in that precision.
    """
    chosen = choose_precision(precision, device)
    return Hardware(
        describe(device),
        device.type,
        chosen,
        measure_matrix_peak(device, chosen),
        memory_of(device),
        measure_copy(device),
        None,
        "measured: matrix products and a copy",
        here=True,
    )

"""What this machine can do at most: the ceiling that every efficiency figure is quoted against."""

from __future__ import annotations

import time

import torch

from lavra.training.devices import synchronize
from lavra.training.precision import TYPES, Precision

_SIDES = {"cpu": 2048, "cuda": 8192, "mps": 4096}


def measure_matrix_peak(device: torch.device, precision: Precision, seconds: float = 1.0) -> float:
    """Return the FLOP/s of square matrix products on random data: the median of those that fit in `seconds`."""
    side = _SIDES.get(device.type, 2048)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(side, side, generator=generator).to(device, TYPES[precision])
    right = torch.randn(side, side, generator=generator).to(device, TYPES[precision])
    out = left @ right
    synchronize(device)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2.0 * side**3 / sorted(times)[len(times) // 2]
